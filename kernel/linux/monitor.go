//go:build linux

package linux

import (
	"context"
	"errors"

	"github.com/twill-cni/twill/kernel"
)

// Monitor turns the kernel's notifications into events.
type Monitor struct{}

// NewMonitor subscribes to the notifications of the handle's network namespace, for the links of the given names.
func (h *Handle) NewMonitor(links []string) (*Monitor, error) { return &Monitor{}, nil }

// SetLinks replaces the names of the links of interest. It may be called while Run runs.
func (m *Monitor) SetLinks(names []string) error { return errors.ErrUnsupported }

// Run calls emit with each event until ctx ends. It closes the monitor.
func (m *Monitor) Run(ctx context.Context, emit func(kernel.Event)) error {
	return errors.ErrUnsupported
}

// Close releases the sockets of a monitor that was not run.
func (m *Monitor) Close() error { return nil }
