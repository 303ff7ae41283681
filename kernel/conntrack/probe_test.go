package conntrack

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nfnl"
)

func TestProbe(t *testing.T) {
	inNamespace(t)
	if err := Probe(); err != nil {
		t.Error(err)
	}
	if err := probed(&nfnl.Error{Errno: unix.EINVAL}); !errors.Is(err, kernel.ErrUnsupported) {
		t.Errorf("a kernel without it: %v", err)
	}
	if err := probed(&nfnl.Error{Errno: unix.EPERM}); errors.Is(err, kernel.ErrUnsupported) || !errors.Is(err, unix.EPERM) {
		t.Errorf("without the right to: %v", err)
	}
}
