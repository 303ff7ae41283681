//go:build linux

package main

import (
	"errors"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/plugins/delegate"
	"github.com/twill-cni/twill/plugins/hostport"
	"github.com/twill-cni/twill/plugins/netconf"
)

// The plugin's own error codes (docs/cni-config.md); those below 100 are the specification's.
const (
	codeKernel    = 100 // a request to the kernel failed
	codePortTaken = 101 // a host port leads to another pod
	codeExists    = 102 // the attachment or the pod's interface exists
	codeNoAddress = ipam.CodeNoAddress
	codeMismatch  = ipam.CodeMismatch // CHECK found a difference, to a lease or to anything else
	codeNotClosed = 105               // the pod could not be kept closed until its policies are known
)

// codes says which code an error gets; the first that matches counts.
var codes = []struct {
	err  error
	code uint
}{
	{netconf.ErrSyntax, types.ErrDecodingFailure},
	{attach.ErrPrevResult, types.ErrInvalidNetworkConfig},
	{attach.ErrNoPlugin, types.ErrInvalidNetworkConfig},
	{netconf.ErrMTU, types.ErrInvalidNetworkConfig},
	{attach.ErrBusy, types.ErrTryAgainLater},
	{ipam.ErrBusy, types.ErrTryAgainLater},
	{hostport.ErrTaken, codePortTaken},
	{attach.ErrExists, codeExists},
	{kernel.ErrInterfaceExists, codeExists},
	{ipam.ErrExhausted, codeNoAddress},
	{ipam.ErrUnavailable, codeNoAddress},
	{attach.ErrMismatch, codeMismatch},
	{attach.ErrNotClosed, codeNotClosed},
	{kernel.ErrNoBridge, types.ErrInvalidNetworkConfig},
	{kernel.ErrHostNetns, types.ErrInvalidNetNS},
	{kernel.ErrNoNetns, types.ErrInvalidNetNS},
	{kernel.ErrNetnsMissing, types.ErrUnknownContainer},
}

// coded is an error whose code is known where it arises.
type coded struct {
	code uint
	error
}

func (c coded) Unwrap() error { return c.error }

func withCode(code uint, err error) error { return coded{code, err} }

// cniError turns an error into the specification's. Errors that a delegated plugin printed keep their code.
func cniError(err error) error {
	if err == nil {
		return nil
	}
	var c coded
	var theirs *delegate.Error
	switch {
	case errors.Is(err, netconf.ErrSyntax):
		return types.NewError(types.ErrDecodingFailure, err.Error(), "")
	case errors.As(err, &c):
		return types.NewError(c.code, err.Error(), "")
	case errors.As(err, &theirs):
		return types.NewError(theirs.Code, err.Error(), theirs.Details)
	}
	for _, k := range codes {
		if errors.Is(err, k.err) {
			return types.NewError(k.code, err.Error(), "")
		}
	}
	return types.NewError(codeKernel, err.Error(), "")
}
