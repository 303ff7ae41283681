package kernel

import "fmt"

// Difference is something that the kernel holds otherwise than it should, in words for people.
type Difference struct {
	What string `json:"what"` // chain dispatch, for instance
	Have string `json:"have"` // what the kernel holds
	Want string `json:"want"` // what it should hold
}

// String returns, for instance, "chain dispatch: kernel has nothing, should be 4 rules".
func (d Difference) String() string {
	return fmt.Sprintf("%s: kernel has %s, should be %s", d.What, d.Have, d.Want)
}
