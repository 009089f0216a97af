//! Sequences of keys, the same ones in every run.

/// Numbers as good as random: splitmix64, see <https://prng.di.unimi.it/splitmix64.c>.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number in `0.0..1.0`.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number in `0..limit`, even enough for limits far below 2^64.
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).expect("it is below a usize")
    }
}

/// Draws `count` keys of `0..keys`, the one at rank r with a probability in proportion to 1/r^`exponent`.
pub(crate) fn zipf(random: &mut Random, exponent: f64, keys: usize, count: usize) -> Vec<u32> {
    let mut total = 0.0;
    let upto: Vec<f64> = (1..=keys)
        .map(|rank| {
            total += (rank as f64).powf(-exponent);
            total
        })
        .collect();
    (0..count)
        .map(|_| {
            let point = random.fraction() * total;
            key(upto.partition_point(|&sum| sum <= point).min(keys - 1))
        })
        .collect()
}

/// Goes round `keys` keys until there are `count`.
pub(crate) fn looping(keys: usize, count: usize) -> Vec<u32> {
    (0..keys).map(key).cycle().take(count).collect()
}

/// Draws `count` keys of `0..keys`, each as likely as any other.
pub(crate) fn uniform(random: &mut Random, keys: usize, count: usize) -> Vec<u32> {
    (0..count).map(|_| key(random.below(keys))).collect()
}

fn key(number: usize) -> u32 {
    u32::try_from(number).expect("there are fewer than 2^32 keys")
}
