//go:build linux

package delegate

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/twill-cni/twill/ipam"
	"github.com/twill-cni/twill/kernel"
	"github.com/twill-cni/twill/plugins/attach"
)

// Error codes of the CNI specification by which a plugin says that it does not know a verb.
const (
	codeIncompatibleVersion = 1
	codeInvalidEnvironment  = 4
)

// Error is what a plugin printed when it failed.
type Error struct {
	Code    uint   `json:"code"`
	Msg     string `json:"msg"`
	Details string `json:"details"`
}

func (e *Error) Error() string {
	if e.Details != "" {
		return e.Msg + "; " + e.Details
	}
	return e.Msg
}

// Plugin is an IPAM plugin. It implements attach.IPAM.
type Plugin struct {
	Name    string // ipam.type
	Netconf []byte // the main plugin's configuration
	Path    string // CNI_PATH
	Netns   string // CNI_NETNS; may be empty
	Args    string // CNI_ARGS
}

// run executes one verb for an owner and returns what the plugin prints.
func (p Plugin) run(ctx context.Context, verb string, owner kernel.PodOwner, conf []byte) ([]byte, error) {
	program, err := p.find()
	if err != nil {
		return nil, err
	}
	var stdout bytes.Buffer
	cmd := exec.CommandContext(ctx, program)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(conf), &stdout, os.Stderr
	cmd.Env = append(withoutCNI(os.Environ()), "CNI_COMMAND="+verb, "CNI_CONTAINERID="+owner.ContainerID, "CNI_IFNAME="+owner.IfName,
		"CNI_NETNS="+p.Netns, "CNI_ARGS="+p.Args, "CNI_PATH="+p.Path)
	if err := cmd.Run(); err != nil {
		var theirs Error
		if json.Unmarshal(stdout.Bytes(), &theirs) == nil && theirs.Msg != "" {
			return nil, fmt.Errorf("IPAM plugin %s: %s: %w", p.Name, verb, &theirs)
		}
		return nil, fmt.Errorf("IPAM plugin %s: %s: %w: %s", p.Name, verb, err, bytes.TrimSpace(stdout.Bytes()))
	}
	return stdout.Bytes(), nil
}

func (p Plugin) find() (string, error) {
	if p.Name == "" || strings.ContainsRune(p.Name, filepath.Separator) {
		return "", fmt.Errorf("ipam.type %q is not the name of a plugin: %w", p.Name, attach.ErrNoPlugin)
	}
	for _, dir := range filepath.SplitList(p.Path) {
		program := filepath.Join(dir, p.Name)
		if info, err := os.Stat(program); err == nil && info.Mode().IsRegular() {
			return program, nil
		}
	}
	return "", fmt.Errorf("ipam.type %q is not in CNI_PATH %q: %w", p.Name, p.Path, attach.ErrNoPlugin)
}

func withoutCNI(env []string) []string {
	var out []string
	for _, e := range env {
		if !strings.HasPrefix(e, "CNI_") {
			out = append(out, e)
		}
	}
	return out
}

// Allocate runs ADD.
func (p Plugin) Allocate(ctx context.Context, r attach.Request) (attach.Lease, error) {
	out, err := p.run(ctx, "ADD", r.Owner, p.Netconf)
	if err != nil {
		return attach.Lease{}, err
	}
	lease, err := parseLease(out)
	if err != nil {
		return attach.Lease{}, fmt.Errorf("result of IPAM plugin %s: %w", p.Name, err)
	}
	return lease, nil
}

// parseLease reads a result of version 0.3.0 or later, which is what a plugin must answer with to a configuration that twill
// accepts.
func parseLease(data []byte) (attach.Lease, error) {
	var result attach.Result
	if err := json.Unmarshal(data, &result); err != nil {
		return attach.Lease{}, err
	}
	lease := attach.Lease{DNS: result.DNS}
	for _, ip := range result.IPs {
		if !ip.Address.IsValid() || ip.Address.Addr().Is4In6() {
			return attach.Lease{}, fmt.Errorf("address %q of an entry of ips is neither IPv4 nor IPv6", ip.Address)
		}
		lease.Addresses = append(lease.Addresses, ipam.Address{Prefix: ip.Address, Gateway: ip.Gateway.Unmap()})
	}
	for _, r := range result.Routes {
		if !r.Dst.IsValid() || r.Dst.Addr().Is4In6() {
			return attach.Lease{}, fmt.Errorf("dst %q of an entry of routes is neither IPv4 nor IPv6", r.Dst)
		}
		route := ipam.Route{Dst: r.Dst.Masked(), GW: r.GW.Unmap(), MTU: r.MTU, AdvMSS: r.AdvMSS, Priority: r.Priority, Table: r.Table, Scope: r.Scope}
		if err := route.CheckNumbers(); err != nil {
			return attach.Lease{}, fmt.Errorf("route to %s: %w", route.Dst, err)
		}
		lease.Routes = append(lease.Routes, route)
	}
	return lease, nil
}

// Release runs DEL.
func (p Plugin) Release(ctx context.Context, owner kernel.PodOwner) error {
	_, err := p.run(ctx, "DEL", owner, p.Netconf)
	return err
}

// Check runs CHECK. Which addresses the lease must hold stands in the configuration's prevResult.
func (p Plugin) Check(ctx context.Context, owner kernel.PodOwner, _ []netip.Prefix) error {
	_, err := p.run(ctx, "CHECK", owner, p.Netconf)
	return err
}

// Leased returns nothing: the protocol has no question for it. What prevResult says may be another pod's by now.
func (p Plugin) Leased(context.Context, kernel.PodOwner) ([]netip.Addr, error) { return nil, nil }

// Free returns nothing, as Leased does.
func (p Plugin) Free(context.Context, []netip.Addr) ([]netip.Addr, error) { return nil, nil }

// Status runs STATUS. A plugin that does not know the verb is taken to be well, if it is there.
func (p Plugin) Status(ctx context.Context) error {
	_, err := p.run(ctx, "STATUS", kernel.PodOwner{}, p.Netconf)
	return knownVerb(err)
}

// Retain hands the GC on. The plugin sees the attachments that twill keeps, which may be more than the runtime's: those that
// could not be removed keep their addresses.
func (p Plugin) Retain(ctx context.Context, valid []kernel.PodOwner) error {
	var conf map[string]any
	if err := json.Unmarshal(p.Netconf, &conf); err != nil {
		return err
	}
	attachments := []map[string]string{}
	for _, o := range valid {
		attachments = append(attachments, map[string]string{"containerID": o.ContainerID, "ifname": o.IfName})
	}
	conf["cni.dev/valid-attachments"] = attachments
	data, err := json.Marshal(conf)
	if err != nil {
		return err
	}
	_, err = p.run(ctx, "GC", kernel.PodOwner{}, data)
	return knownVerb(err)
}

// knownVerb forgives plugins that are older than STATUS and GC.
func knownVerb(err error) error {
	var theirs *Error
	if errors.As(err, &theirs) && (theirs.Code == codeInvalidEnvironment || theirs.Code == codeIncompatibleVersion) {
		return nil
	}
	return err
}
