package kernel

import (
	"errors"
	"fmt"
)

// ErrUnsupported says that the kernel was built without something, or that its module cannot be loaded.
var ErrUnsupported = errors.New("the kernel does not support it")

// ErrInTheWay says that somebody else made something that has the place of what is to be made. A person has to decide what becomes of it.
var ErrInTheWay = errors.New("it is not Twill's")

// Feature is something that a kernel can be without.
type Feature struct {
	Name   string // for people: "VXLAN devices"
	Module string // which has it, unless it is built in; empty for a part of another module, which the kernel is built with or not
	Option string // of the kernel's configuration: CONFIG_VXLAN
}

// LackError says that the kernel lacks a feature, and what to do. It is an ErrUnsupported.
type LackError struct {
	Feature Feature
	Err     error
}

func (e *LackError) Error() string {
	if e.Feature.Module == "" {
		return fmt.Sprintf("this host's kernel lacks %s: take a kernel with %s: %v", e.Feature.Name, e.Feature.Option, e.Err)
	}
	return fmt.Sprintf("this host's kernel lacks %s: run `modprobe %s` on the host and have the module loaded at boot (a line in /etc/modules-load.d), "+
		"or take a kernel with %s: %v", e.Feature.Name, e.Feature.Module, e.Feature.Option, e.Err)
}

func (e *LackError) Unwrap() error { return e.Err }
