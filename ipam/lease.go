package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"
)

var (
	// ErrExhausted says that no address of a range set is left. It may pass: addresses come back when pods leave.
	ErrExhausted = errors.New("no free address is left")
	// ErrNotFound says that the owner holds no lease.
	ErrNotFound = errors.New("no lease")
	// ErrUnavailable says that a requested address cannot be given: it is taken, reserved or in no range.
	ErrUnavailable = errors.New("requested address is not available")
	// ErrBusy says that other processes kept the store locked until the caller's context ended.
	ErrBusy = errors.New("store is locked")
	// ErrDamaged says that a lease record cannot be read. Its addresses stay taken until its owner is released.
	ErrDamaged = errors.New("damaged lease record")
)

// CNI error codes that mean the same from whichever program they come, twill or twill-ipam (docs/cni-config.md). They are a plugin's
// own, from 100 on. The specification's 11, "try again later", is for what passes by itself: a range that is full stays so until
// a pod leaves, or somebody enlarges it.
const (
	CodeNoAddress = 103 // ErrExhausted, ErrUnavailable
	CodeMismatch  = 104 // CHECK: the lease is missing, or is not what prevResult says
)

// maxContainerID keeps "<container id>:<interface>" within NAME_MAX (255 bytes), since that is the name of a lease's record.
const maxContainerID = 255 - 1 - maxIfName

// maxIfName is IFNAMSIZ less the terminating zero (include/uapi/linux/if.h).
const maxIfName = 15

// Owner is what a lease belongs to: one interface of one container (CNI_CONTAINERID and CNI_IFNAME).
type Owner struct {
	ContainerID string
	IfName      string
}

// Validate applies the rules of the CNI specification (version 1.1, "Parameters"), so that a valid owner's fields can be parts
// of a file name: no slash, no colon, no leading dot.
func (o Owner) Validate() error {
	if !validID(o.ContainerID) {
		return fmt.Errorf("container id %q: want a letter or digit, then letters, digits, '_', '.' and '-'", o.ContainerID)
	}
	if len(o.ContainerID) > maxContainerID {
		return fmt.Errorf("container id %.20q...: is longer than %d bytes", o.ContainerID, maxContainerID)
	}
	switch {
	case o.IfName == "", len(o.IfName) > maxIfName, o.IfName == ".", o.IfName == "..":
		return fmt.Errorf("interface name %q: want 1 to %d bytes, neither \".\" nor \"..\"", o.IfName, maxIfName)
	case strings.ContainsFunc(o.IfName, notInIfName):
		return fmt.Errorf("interface name %q: contains '/', ':', white space or a control character", o.IfName)
	}
	return nil
}

func notInIfName(r rune) bool {
	return r == '/' || r == ':' || unicode.IsSpace(r) || unicode.IsControl(r)
}

func (o Owner) String() string { return o.ContainerID + "/" + o.IfName }

// ValidateNetwork applies the specification's rule for network names, so that a valid name can be a directory's.
func ValidateNetwork(name string) error {
	if !validID(name) || len(name) > 255 {
		return fmt.Errorf("network name %q: want a letter or digit, then letters, digits, '_', '.' and '-'", name)
	}
	return nil
}

// validID reports whether s matches ^[a-zA-Z0-9][a-zA-Z0-9_.-]*$.
func validID(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !alnum && (i == 0 || c != '_' && c != '.' && c != '-') {
			return false
		}
	}
	return s != ""
}

// Request asks for one address of each range set.
type Request struct {
	Owner Owner
	Netns string       // path of the network namespace; its inode number goes into the lease. Empty: not recorded
	IPs   []netip.Addr // addresses wanted, at most one for a range set; Config.IPs and Args.IPs are where they come from
	Pod   string       // "namespace/name", for people only
}

// Address is an address as an interface bears it.
type Address struct {
	Prefix  netip.Prefix // the address with the length of its subnet
	Gateway netip.Addr   // zero when the subnet has none
}

// Lease says which addresses an owner holds.
type Lease struct {
	Owner     Owner
	Addresses []Address // in the order of the range sets

	// What follows helps people and garbage collectors; no rule of allocation depends on it.
	Netns      string // path of the network namespace when the lease was made
	NetnsInode uint64 // inode number behind Netns; 0 when it was not known
	Pod        string
	Created    time.Time
}
