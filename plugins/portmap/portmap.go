//go:build linux

package portmap

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/kernel/nft"
	"github.com/twill-cni/twill/kernel/podnet"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/plugins/hostport"
)

// Ports are the host ports of one node. It opens its socket when that is first needed, since most pods map no port; the zero value is ready
// for use. It is not safe for concurrent use.
type Ports struct{ tables *nft.Handle }

var _ attach.HostPorts = (*Ports)(nil)

func (h *Ports) open() (*nft.Handle, error) {
	if h.tables == nil {
		tables, err := nft.Open(slog.New(slog.DiscardHandler))
		if err != nil {
			return nil, err
		}
		h.tables = tables
	}
	return h.tables, nil
}

// Close releases the socket. What is in the kernel stays there.
func (h *Ports) Close() {
	if h.tables != nil {
		_ = h.tables.Close()
	}
}

// Add makes all mappings of the pod or none; see attach.HostPorts. The guard of the loopback addresses is in place before
// route_localnet opens them.
func (h *Ports) Add(ctx context.Context, p hostport.Pod) error {
	ports, err := p.Ports()
	if err != nil {
		return err
	}
	tables, err := h.open()
	if err != nil {
		return err
	}
	err = tables.AddElements(ctx, hostport.Table(), ports.With(p.Own()).With(p.Shared()))
	if errors.Is(err, unix.EEXIST) {
		return h.taken(tables, p, ports)
	}
	if err != nil {
		return fmt.Errorf("map host ports: %w", err)
	}
	if p.HasIPv4() {
		if err := podnet.HostSysctls.AllowLocalnet(p.Bridge); err != nil {
			return errors.Join(err, h.Remove(ctx, p))
		}
	}
	return FlushUDP(ctx, p)
}

// taken says which port another pod has, and which pod that is.
func (h *Ports) taken(tables *nft.Handle, p hostport.Pod, ports hostport.Elements) error {
	for set, elems := range ports {
		found, err := tables.FindElements(kernel.FamilyInet, hostport.TableName, set, elems)
		if err != nil {
			return err
		}
		for _, e := range found {
			if !p.Leads(e) {
				return fmt.Errorf("%s: %w by the pod with address %s", hostport.Describe(e), hostport.ErrTaken, e.Value[0].Addr)
			}
		}
	}
	return fmt.Errorf("map host ports: %w", hostport.ErrTaken) // it went away in between
}

// Remove removes what leads to the pod. It looks before it removes: a port whose ADD failed is another pod's.
func (h *Ports) Remove(ctx context.Context, p hostport.Pod) error {
	ports, err := p.Ports()
	if err != nil {
		return nil // nothing was made of these
	}
	tables, err := h.open()
	if err != nil {
		return err
	}
	own := p.Own()
	for set, elems := range ports {
		found, err := tables.FindElements(kernel.FamilyInet, hostport.TableName, set, elems)
		if err != nil {
			return fmt.Errorf("unmap host ports: %w", err)
		}
		if found = slices.DeleteFunc(found, func(e kernel.Element) bool { return !p.Leads(e) }); len(found) > 0 {
			own[set] = found
		}
	}
	if err := tables.DeleteElements(ctx, kernel.FamilyInet, hostport.TableName, own); err != nil {
		return fmt.Errorf("unmap host ports: %w", err)
	}
	return FlushUDP(ctx, p)
}

// Targets lists all elements that belong to pods.
func (h *Ports) Targets() ([]hostport.Pod, error) {
	tables, err := h.open()
	if err != nil {
		return nil, err
	}
	have := hostport.Elements{}
	for _, set := range hostport.PodSets() {
		have[set], err = tables.ListElements(kernel.FamilyInet, hostport.TableName, set)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("list host ports: %w", err)
		}
	}
	return hostport.Targets(have), nil
}

// Check looks every element up.
func (h *Ports) Check(_ context.Context, p hostport.Pod) error {
	ports, err := p.Ports()
	if err != nil {
		return err
	}
	tables, err := h.open()
	if err != nil {
		return err
	}
	var errs []error
	for set, elems := range ports {
		for _, want := range elems {
			found, err := tables.FindElements(kernel.FamilyInet, hostport.TableName, set, []kernel.Element{want})
			switch {
			case err != nil:
				errs = append(errs, err)
			case len(found) == 0 || !slices.Equal(found[0].Value, want.Value):
				errs = append(errs, fmt.Errorf("%s does not lead to the pod: %w", hostport.Describe(want), attach.ErrMismatch))
			}
		}
	}
	return errors.Join(errs...)
}
