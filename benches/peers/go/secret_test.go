// Package peers measures the secrets of securememory, for the Rust program beside it to compare with keyward's.
package peers

import (
	"bytes"
	"io"
	"testing"

	"github.com/godaddy/asherah/go/securememory"
	"github.com/godaddy/asherah/go/securememory/memguard"
	"github.com/godaddy/asherah/go/securememory/protectedmemory"
)

var factories = []struct {
	name    string
	factory securememory.SecretFactory
}{
	{"protected", new(protectedmemory.SecretFactory)},
	{"guarded", new(memguard.SecretFactory)},
}

// Use keeps the compiler from dropping what is read.
var use byte

func key() []byte { return []byte("thisismy32bytesecretthatiwilluse") }

func each(b *testing.B, run func(*testing.B, securememory.SecretFactory)) {
	for _, f := range factories {
		b.Run(f.name, func(b *testing.B) { run(b, f.factory) })
	}
}

func secret(b *testing.B, factory securememory.SecretFactory) securememory.Secret {
	s, err := factory.New(key())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	return s
}

func read(lent []byte) error {
	use = lent[0] // a byte, since reading more is not what is measured
	return nil
}

func BenchmarkSequential(b *testing.B) {
	each(b, func(b *testing.B, factory securememory.SecretFactory) {
		s := secret(b, factory)
		for b.Loop() {
			if err := s.WithBytes(read); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkParallel(b *testing.B) {
	each(b, func(b *testing.B, factory securememory.SecretFactory) {
		s := secret(b, factory)
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			var seen byte
			for pb.Next() {
				err := s.WithBytes(func(lent []byte) error {
					seen += lent[0]
					return nil
				})
				if err != nil {
					b.Error(err)
					return
				}
			}
			_ = seen
		})
	})
}

func BenchmarkCreate(b *testing.B) {
	each(b, func(b *testing.B, factory securememory.SecretFactory) {
		for b.Loop() {
			s, err := factory.New(key())
			if err != nil {
				b.Fatal(err)
			}
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkReader(b *testing.B) {
	each(b, func(b *testing.B, factory securememory.SecretFactory) {
		s, into := secret(b, factory), make([]byte, 32)
		for b.Loop() {
			if _, err := io.ReadFull(s.NewReader(), into); err != nil {
				b.Fatal(err)
			}
		}
		if !bytes.Equal(into, key()) {
			b.Fatal("the reader read something else")
		}
	})
}
