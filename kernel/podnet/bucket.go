package podnet

import "github.com/twill-cni/twill/kernel"

// bucket is a token bucket in the units of tbf.
type bucket struct {
	rate  uint64 // bytes per second
	burst uint64 // bytes
	limit uint64 // bytes that may wait
}

const (
	burstMillis   = 100 // a burst is at most what the rate allows in this time
	latencyMillis = 50  // a packet waits at most this long; what would wait longer is dropped
	frameOverhead = 18  // Ethernet header and a VLAN tag, on top of the MTU
)

// bucketOf turns what a runtime asks for into a bucket that limits. The burst is clamped from above, since some
// runtimes pass MaxUint32 bits when nobody asked for one, which would let half a gigabyte pass unshaped; and from
// below, since a packet larger than the bucket never passes.
func bucketOf(r kernel.Rate, mtu int) bucket {
	k := bucket{rate: max(r.Bits/8, 1)}
	packet := uint64(mtu + frameOverhead)
	most := max(k.rate/1000*burstMillis, 2*packet)
	k.burst = min(r.Burst/8, most)
	if r.Burst == 0 {
		k.burst = most
	}
	k.burst = min(max(k.burst, packet), 1<<31)
	k.limit = k.rate/1000*latencyMillis + max(k.burst, packet)
	return k
}
