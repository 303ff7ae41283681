//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/attach"
	"github.com/twill-cni/twill/plugins/netconf"
)

// delegated runs another IPAM plugin, as section 4 of the CNI specification says.
type delegated struct {
	plugin  string
	netconf []byte
}

// run executes one verb of the plugin for an owner and returns what it prints.
func (d delegated) run(ctx context.Context, verb string, owner kernel.PodOwner, netns string, conf []byte) ([]byte, error) {
	exec := &invoke.DefaultExec{RawExec: &invoke.RawExec{Stderr: os.Stderr}}
	path, err := exec.FindInPath(d.plugin, filepath.SplitList(os.Getenv("CNI_PATH")))
	if err != nil {
		return nil, fmt.Errorf("ipam.type: %w", err)
	}
	args := &invoke.Args{Command: verb, ContainerID: owner.ContainerID, NetNS: netns, IfName: owner.IfName,
		PluginArgsStr: os.Getenv("CNI_ARGS"), Path: os.Getenv("CNI_PATH")}
	out, err := exec.ExecPlugin(ctx, path, conf, args.AsEnv())
	if err != nil {
		return nil, fmt.Errorf("IPAM plugin %s: %s: %w", d.plugin, verb, err)
	}
	return out, nil
}

func (d delegated) Allocate(ctx context.Context, r attach.Request) (attach.Lease, error) {
	out, err := d.run(ctx, "ADD", r.Owner, r.Netns, d.netconf)
	if err != nil {
		return attach.Lease{}, err
	}
	lease, err := parseDelegated(out, r.Config.CNIVersion)
	if err != nil {
		return attach.Lease{}, fmt.Errorf("result of IPAM plugin %s: %w", d.plugin, err)
	}
	return lease, nil
}

// parseDelegated reads a result of any version of the specification. One that names no version is of the configuration's.
func parseDelegated(data []byte, version string) (attach.Lease, error) {
	var head struct {
		CNIVersion string `json:"cniVersion"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return attach.Lease{}, err
	}
	if head.CNIVersion == "" {
		head.CNIVersion = version
	}
	result, err := createResult(head.CNIVersion, data)
	if err != nil {
		return attach.Lease{}, err
	}
	lease := attach.Lease{DNS: netconf.DNS(result.DNS)}
	for _, ip := range result.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		bits, _ := ip.Address.Mask.Size()
		if !ok {
			return attach.Lease{}, fmt.Errorf("address %s is malformed", ip.Address.String())
		}
		gateway, _ := netip.AddrFromSlice(ip.Gateway)
		lease.Addresses = append(lease.Addresses, ipam.Address{Prefix: netip.PrefixFrom(addr.Unmap(), bits), Gateway: gateway.Unmap()})
	}
	for _, r := range result.Routes {
		route, err := fromRoute(r)
		if err != nil {
			return attach.Lease{}, err
		}
		lease.Routes = append(lease.Routes, route)
	}
	return lease, nil
}

func fromRoute(r *types.Route) (ipam.Route, error) {
	addr, ok := netip.AddrFromSlice(r.Dst.IP)
	bits, _ := r.Dst.Mask.Size()
	if !ok {
		return ipam.Route{}, fmt.Errorf("route %s is malformed", r)
	}
	gateway, _ := netip.AddrFromSlice(r.GW)
	return ipam.Route{Dst: netip.PrefixFrom(addr.Unmap(), bits).Masked(), GW: gateway.Unmap(), MTU: r.MTU, AdvMSS: r.AdvMSS,
		Priority: r.Priority, Table: r.Table, Scope: r.Scope}, nil
}

func (d delegated) Release(ctx context.Context, owner kernel.PodOwner) error {
	_, err := d.run(ctx, "DEL", owner, os.Getenv("CNI_NETNS"), d.netconf)
	return err
}

func (d delegated) Check(ctx context.Context, owner kernel.PodOwner, _ []netip.Prefix) error {
	_, err := d.run(ctx, "CHECK", owner, os.Getenv("CNI_NETNS"), d.netconf)
	return err
}

func (d delegated) Status(ctx context.Context) error {
	_, err := d.run(ctx, "STATUS", kernel.PodOwner{}, "", d.netconf)
	return ignoreUnknownVerb(err)
}

// Retain hands the GC on. The plugin sees the attachments that twill keeps, which may be more than the runtime's: those that
// could not be removed keep their addresses.
func (d delegated) Retain(ctx context.Context, valid []kernel.PodOwner) error {
	var conf map[string]any
	if err := json.Unmarshal(d.netconf, &conf); err != nil {
		return err
	}
	attachments := make([]types.GCAttachment, len(valid))
	for i, o := range valid {
		attachments[i] = types.GCAttachment{ContainerID: o.ContainerID, IfName: o.IfName}
	}
	conf["cni.dev/valid-attachments"] = attachments
	data, err := json.Marshal(conf)
	if err != nil {
		return err
	}
	_, err = d.run(ctx, "GC", kernel.PodOwner{}, "", data)
	return ignoreUnknownVerb(err)
}

// ignoreUnknownVerb forgives plugins that are older than STATUS and GC. They say so with code 4 (unknown CNI_COMMAND) or 1
// (version).
func ignoreUnknownVerb(err error) error {
	var e *types.Error
	if errors.As(err, &e) && (e.Code == types.ErrInvalidEnvironmentVariables || e.Code == types.ErrIncompatibleCNIVersion) {
		return nil
	}
	return err
}

func createResult(version string, data []byte) (*types100.Result, error) {
	result, err := create.Create(version, data)
	if err != nil {
		return nil, err
	}
	return types100.GetResult(result)
}
