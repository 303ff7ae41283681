//go:build linux

package view

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/twill-cni/twill/kernel/conntrack"
	"github.com/twill-cni/twill/kernel/linux"
	"github.com/twill-cni/twill/kernel/nft"
)

const (
	mostLines    = 20_000 // of each kind
	mostElements = 5_000  // of each set
	maxSysctl    = 4096   // bytes
)

// View is how a kernel was at one moment.
type View struct {
	Release string `json:"release"`
	linux.Listing
	Tables    string            `json:"tables"` // of nftables, Twill's alone
	Conntrack Conntrack         `json:"conntrack"`
	Sysctls   map[string]string `json:"sysctls"` // by entry, such as net/ipv4/ip_forward; those that the kernel has
	Unknown   map[string]string `json:"unknown,omitempty"`
}

// Conntrack counts tracked connections.
type Conntrack struct {
	Used int `json:"used"`
	Max  int `json:"max"`
}

// Look looks at the network namespace of the calling thread, to which a goroutine that has switched its thread to another one is locked.
func Look(ctx context.Context) *View {
	v := &View{Release: release(), Unknown: map[string]string{}}
	note := func(what string, err error) {
		if err != nil {
			v.Unknown[what] = err.Error()
		}
	}
	note("links, addresses, routes, neighbours", v.list(ctx))
	note("nftables", v.tables(ctx))
	var err error
	v.Conntrack.Used, v.Conntrack.Max, err = conntrack.Use()
	note("tracked connections", err)
	var names []string
	for _, line := range v.Links {
		if _, rest, ok := strings.Cut(line, ": "); ok {
			name, _, _ := strings.Cut(rest, " ")
			names = append(names, name)
		}
	}
	v.Sysctls = Sysctls(names)
	return v
}

func (v *View) list(ctx context.Context) (err error) {
	k, err := linux.Open(slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	v.Listing, err = k.List(ctx, mostLines)
	return err
}

func (v *View) tables(ctx context.Context) (err error) {
	k, err := nft.Open(slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	v.Tables, err = k.Text(ctx, mostElements)
	return err
}

func release() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return ""
	}
	text := func(field []byte) string { return string(field[:max(bytes.IndexByte(field, 0), 0)]) }
	return fmt.Sprintf("%s %s %s", text(name.Sysname[:]), text(name.Release[:]), text(name.Machine[:]))
}

// Sysctls returns those of the kernel's settings that Twill depends on, as the calling thread's namespace has them.
func Sysctls(links []string) map[string]string {
	entries := []string{
		"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/rp_filter",
		"net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables",
		"net/netfilter/nf_conntrack_max", "net/netfilter/nf_conntrack_count",
		"net/ipv4/neigh/default/gc_thresh3", "net/ipv6/neigh/default/gc_thresh3",
		"fs/inotify/max_user_instances", "fs/inotify/max_user_watches",
	}
	for _, name := range links {
		entries = append(entries, "net/ipv4/conf/"+name+"/rp_filter")
	}
	found := map[string]string{}
	for _, entry := range entries {
		if text, err := readSysctl(path.Join("/proc/sys", entry)); err == nil {
			found[entry] = text
		}
	}
	return found
}

func readSysctl(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close() // it was read only
	text, err := io.ReadAll(io.LimitReader(f, maxSysctl))
	return strings.TrimSpace(string(text)), err
}
