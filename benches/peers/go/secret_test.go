// Package peers measures the secrets of Go's securememory, as the Rust program beside it measures keyward's.
package peers

import (
	"io"
	"testing"

	"github.com/godaddy/asherah/go/securememory"
	"github.com/godaddy/asherah/go/securememory/memguard"
	"github.com/godaddy/asherah/go/securememory/protectedmemory"
)

const size = 32

var sink byte

func each(b *testing.B, run func(b *testing.B, factory securememory.SecretFactory)) {
	b.Run("protected", func(b *testing.B) { run(b, new(protectedmemory.SecretFactory)) })
	b.Run("guarded", func(b *testing.B) { run(b, new(memguard.SecretFactory)) })
}

func secret(b *testing.B, factory securememory.SecretFactory) securememory.Secret {
	made, err := factory.CreateRandom(size)
	if err != nil {
		b.Fatal(err)
	}
	return made
}

func use(b *testing.B, secret securememory.Secret) {
	err := secret.WithBytes(func(bytes []byte) error {
		sink = bytes[0]
		return nil
	})
	if err != nil {
		b.Error(err)
	}
}

func BenchmarkUse(b *testing.B) {
	each(b, func(b *testing.B, factory securememory.SecretFactory) {
		secret := secret(b, factory)
		defer secret.Close()
		b.ResetTimer()
		for i := 0; i < b.N; i++ {
			use(b, secret)
		}
	})
}

func BenchmarkParallelUse(b *testing.B) {
	each(b, func(b *testing.B, factory securememory.SecretFactory) {
		secret := secret(b, factory)
		defer secret.Close()
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				if err := secret.WithBytes(func([]byte) error { return nil }); err != nil {
					b.Error(err)
				}
			}
		})
	})
}

func BenchmarkMake(b *testing.B) {
	each(b, func(b *testing.B, factory securememory.SecretFactory) {
		for i := 0; i < b.N; i++ {
			made, err := factory.New(make([]byte, size))
			if err != nil {
				b.Fatal(err)
			}
			if err := made.Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkRead(b *testing.B) {
	each(b, func(b *testing.B, factory securememory.SecretFactory) {
		secret := secret(b, factory)
		defer secret.Close()
		into := make([]byte, size)
		b.ResetTimer()
		for i := 0; i < b.N; i++ {
			if _, err := io.ReadFull(secret.NewReader(), into); err != nil {
				b.Fatal(err)
			}
		}
	})
}
