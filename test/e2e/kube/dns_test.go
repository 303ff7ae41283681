package kube

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/twill-cni/twill/test/kubetest"
)

// resolve has a pod ask the cluster's DNS for a name, and returns the answers sorted.
func (r *rig) resolve(ctx context.Context, pod, name, kind string) ([]string, error) {
	// An SRV record's weight is CoreDNS's to say.
	out, err := r.exec(ctx, pod, fmt.Sprintf("dig +search +short +time=2 +tries=2 %s %s | awk 'NF == 4 {$2 = \"-\"} {print}' | sort -u", name, kind))
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	answers := strings.Fields(strings.ReplaceAll(out, " ", "_")) // an SRV record has blanks
	slices.Sort(answers)
	return answers, nil
}

func family(addrs []netip.Addr, v6 bool) []string {
	var texts []string
	for _, a := range addrs {
		if a.Is6() == v6 {
			texts = append(texts, a.String())
		}
	}
	slices.Sort(texts)
	return texts
}

// testDNS: names of Services, asked from pods of both nodes, of which one is not CoreDNS's.
func testDNS(t *testing.T, r *rig) {
	pods := r.standingPods(t)
	r.installDNS(t)
	const domain = "default.svc." + kubetest.ClusterDomain + "."
	s := r.serve(t, service("named", "server", nil))
	r.make(t, service("headless", "server", fields{"clusterIP": "None"}))
	r.make(t, fields{"apiVersion": "v1", "kind": "Service", "metadata": fields{"name": "elsewhere"},
		"spec": fields{"type": "ExternalName", "externalName": "named." + domain}})
	var servers []netip.Addr
	for _, p := range pods {
		servers = append(servers, p.addrs...)
	}
	for _, c := range []struct {
		name, kind string
		want       []string
	}{
		{"named", "A", family(s.Spec.ClusterIPs, false)},
		{"named", "AAAA", family(s.Spec.ClusterIPs, true)},
		{"named." + domain, "A", family(s.Spec.ClusterIPs, false)},
		{"_http._tcp.named." + domain, "SRV", []string{"0_-_80_named." + domain}},
		{"headless", "A", family(servers, false)},
		{"headless", "AAAA", family(servers, true)},
		{"elsewhere", "CNAME", []string{"named." + domain}},
		{"nowhere." + domain, "A", nil},
	} {
		t.Run(c.kind+" of "+c.name, func(t *testing.T) {
			r.becomes(t, func(ctx context.Context) error {
				return each(pods[:2], func(_ int, from standing) error {
					got, err := r.resolve(ctx, from.name, c.name, c.kind)
					if err != nil || !slices.Equal(got, c.want) {
						return fmt.Errorf("from %s: %v, %v; want %v", from.name, got, err, c.want)
					}
					return nil
				})
			})
		})
	}
	t.Run("by name", func(t *testing.T) {
		// A and AAAA are asked for at once, from one port: a packet that conntrack loses then costs five seconds.
		const script = "for i in $(seq 20); do curl -sS -o /dev/null --max-time 9 -w '%{http_code} %{time_namelookup}\\n' http://elsewhere/hostname 2>&1; done"
		r.becomes(t, func(ctx context.Context) error {
			return each(pods[:2], func(_ int, from standing) error {
				out, err := r.exec(ctx, from.name, script)
				if err != nil {
					return fmt.Errorf("%w: %s", err, out)
				}
				var errs []error
				for line := range strings.Lines(out) {
					took, isOK := strings.CutPrefix(strings.TrimSpace(line), "200 ")
					seconds, err := strconv.ParseFloat(took, 64)
					if !isOK || err != nil || seconds > 2 {
						errs = append(errs, fmt.Errorf("from %s: %s", from.name, line))
					}
				}
				return errors.Join(errs...)
			})
		})
	})
}

// installDNS installs CoreDNS, once for a site, and waits until it answers.
func (r *rig) installDNS(t testing.TB) {
	t.Helper()
	must(t, r.Cluster.InstallDNS(t.Context()))
	r.within(t, enough, func(ctx context.Context) error {
		got, err := r.resolve(ctx, r.pods[0].name, "kubernetes", "A")
		if err != nil || !slices.Equal(got, []string{"10.96.0.1"}) {
			return fmt.Errorf("DNS answers %v, %v", got, err)
		}
		return nil
	})
}
