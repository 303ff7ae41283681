package agent

import (
	"bufio"
	"io"
	"net/netip"
	"time"

	"github.com/twill-cni/twill/ctl/connectivity"
	"github.com/twill-cni/twill/ctl/probe"
)

const (
	longest = 64 << 10 // bytes of a line
	atOnce  = 64       // questions under way at one time
)

// Hello is what a pod says of itself.
type Hello struct {
	Addresses   []netip.Addr // global ones, of all its links
	MTU         int          // the smallest of these links', in bytes
	NameServers []netip.Addr
	Search      []string // domains
}

// question is a line to the pod.
type question struct {
	ID       uint64
	Question connectivity.Question
	Patience time.Duration
}

// answer is a line from the pod; the first one holds Hello alone.
type answer struct {
	ID     uint64
	Answer probe.Answer
	Hello  *Hello `json:",omitempty"`
}

func newScanner(r io.Reader) *bufio.Scanner {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 4<<10), longest)
	return s
}
