package attach

import (
	"crypto/sha256"
	"encoding/base32"
	"strings"

	"github.com/twill-cni/twill/kernel"
)

// nameTries is how many names the host link of an attachment may have: the first that no other attachment holds is taken.
const nameTries = 4

// hostLink returns the try'th name (from 0) of the host end of an attachment's veth pair. It is derived from the attachment
// alone, so that a DEL finds the link even when nothing else is left of it. With 55 bits of a hash a second try is
// a matter of theory, but a collision must never connect two pods.
func hostLink(network string, owner kernel.PodOwner, try int) string {
	return hashed("veth", network, owner, try)
}

// shaper returns the name of an attachment's ifb device.
func shaper(network string, owner kernel.PodOwner) string { return hashed("ifb-", network, owner, 0) }

var nameEncoding = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567")

// hashed fills the 15 bytes that the name of a link may have (IFNAMSIZ less the final zero).
func hashed(prefix, network string, owner kernel.PodOwner, try int) string {
	sum := sha256.Sum256([]byte(strings.Join([]string{network, owner.ContainerID, owner.IfName, string(rune('0' + try))}, "\x00")))
	return prefix + nameEncoding.EncodeToString(sum[:])[:15-len(prefix)]
}
