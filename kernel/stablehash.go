package kernel

// StableHash mixes a string into 64 bits: FNV-1a, and the last steps of MurmurHash3, which make every bit of the result depend on every bit of the string.
// What it returns is in the kernel, as numbers in tables, and has to be the same on other nodes and in other versions: it must never change.
func StableHash(seed uint64, s string) uint64 {
	h := 14695981039346656037 ^ seed
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
