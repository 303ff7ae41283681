//go:build linux

package page

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/twill-cni/twill/daemon/api"
	"github.com/twill-cni/twill/store"
)

const (
	maxFound = 50
	// servicesPeriod is for how long a list of Services is used again: it is read from the kernel.
	servicesPeriod = 5 * time.Second
)

// clusterPods knows the pods of the cluster; *policy.Inspector of package daemon/policy is the real one.
type clusterPods interface {
	Each(ctx context.Context, visit func(api.ClusterPod) bool) error
}

// found is something that was looked for.
type found struct {
	Kind  string   `json:"kind"` // pod or service
	Name  string   `json:"name"` // NAMESPACE/NAME
	Node  string   `json:"node,omitempty"`
	Addrs []string `json:"addresses"`
	Local bool     `json:"local,omitempty"` // a pod of this node
}

// matches reports whether a name or address has the text, which is in small letters, in it.
func (f found) matches(text string) bool {
	return strings.Contains(strings.ToLower(f.Name), text) || slices.ContainsFunc(f.Addrs, func(a string) bool { return strings.Contains(a, text) })
}

// results are what was found of each kind, and what could not be searched.
type results struct {
	Found   []found  `json:"found"`
	More    bool     `json:"more,omitempty"` // than are told of
	Unknown []string `json:"unknown,omitempty"`
}

func (d *desk) search(ctx context.Context, text string) (results, error) {
	text = strings.ToLower(strings.TrimSpace(text))
	r := results{Found: []found{}}
	pods, err := d.pods(ctx, text)
	if err != nil {
		r.Unknown = append(r.Unknown, err.Error())
	}
	services, err := d.listServices(ctx)
	if err != nil {
		r.Unknown = append(r.Unknown, err.Error())
	}
	for _, s := range services {
		if s.matches(text) {
			r.Found = append(r.Found, s)
		}
	}
	slices.SortFunc(pods, func(a, b found) int { return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Node, b.Node)) })
	// Neither kind keeps the other out.
	half := max(maxFound/2, maxFound-len(pods))
	r.More = len(r.Found) > half
	r.Found = r.Found[:min(len(r.Found), half)]
	left := maxFound - len(r.Found)
	r.More = r.More || len(pods) > left
	r.Found = append(r.Found, pods[:min(len(pods), left)]...)
	return r, nil
}

// pods returns this node's pods, and the cluster's as far as they are known here, that match.
func (d *desk) pods(ctx context.Context, text string) ([]found, error) {
	own, err := api.PathPods(d.RunDir)
	if err != nil {
		return nil, err
	}
	byName := map[string]*found{}
	var all []*found
	for _, p := range own {
		f := byName[p.Name]
		if f == nil {
			f = &found{Kind: "pod", Name: p.Name, Node: d.Node, Local: true}
			byName[p.Name] = f
			all = append(all, f)
		}
		f.Addrs = append(f.Addrs, p.Address.String())
	}
	if everywhere, ok := d.About.Policies().(clusterPods); ok {
		err = everywhere.Each(ctx, func(p api.ClusterPod) bool {
			f := found{Kind: "pod", Name: p.Namespace + "/" + p.Name, Node: p.Node, Addrs: texts(p.Addresses)}
			if f.Node != d.Node && f.matches(text) {
				all = append(all, &f)
			}
			return len(all) < 100*maxFound
		})
	}
	var out []found
	for _, f := range all {
		if f.matches(text) {
			out = append(out, *f)
		}
	}
	return out, err
}

func texts(addrs []netip.Addr) []string {
	out := []string{}
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

// listServices returns the Services, sorted; none when the proxy is off. It is called by who has the turn.
func (d *desk) listServices(ctx context.Context) ([]found, error) {
	s := d.About.Services()
	if s == nil {
		return nil, nil
	}
	if time.Since(d.listed) < servicesPeriod {
		return d.services, nil
	}
	report, err := s.Report(ctx, store.ObjectName{})
	if err != nil {
		return nil, err
	}
	d.services = d.services[:0:0]
	for _, s := range report.Services {
		f := found{Kind: "service", Name: s.Namespace + "/" + s.Name, Addrs: []string{}}
		for _, front := range s.Frontends {
			f.Addrs = append(f.Addrs, netip.AddrPortFrom(front.Address, front.Port).String())
		}
		d.services = append(d.services, f)
	}
	slices.SortFunc(d.services, func(a, b found) int { return strings.Compare(a.Name, b.Name) })
	d.listed = time.Now()
	return d.services, nil
}
