package balance

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/ctl/lab/netns"
	"github.com/twill-cni/twill/ctl/probe"
	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
)

// name, label and port are those of the Service that Run makes.
const (
	name       = "web"
	port       = 80
	targetPort = 8080
)

// service is the Service over all pods that bear lab.PodLabels.
const service = `
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec:
  type: NodePort
  ipFamilyPolicy: PreferDualStack
  selector: {app: lab}
  ports: [{port: 80, targetPort: 8080}]
`

// Options say how much is tried.
type Options struct {
	Connections int           // of each client
	Timeout     time.Duration // until every pod answers every client
}

// Row is what one client got.
type Row struct {
	From    string         `json:"from"`
	To      netip.AddrPort `json:"to"`
	Answers map[string]int `json:"answers"` // by pod
	Error   string         `json:"error,omitempty"`

	source netns.Namespace
}

// Report is what Run found.
type Report struct {
	Service string   `json:"service"`
	Pods    []string `json:"pods"`
	Rows    []Row    `json:"rows"`
}

// OK reports whether every pod answered every client, and nobody else.
func (r *Report) OK() bool {
	for i := range r.Rows {
		if r.Rows[i].Error != "" || len(r.Rows[i].Answers) != len(r.Pods) {
			return false
		}
	}
	return len(r.Rows) > 0
}

// Applier stores manifests; *etcd.Store with its outcome left out is the real one.
type Applier func(context.Context, manifest.Document) (*corev1.Service, error)

// Run makes a Service over the lab's pods, and connects to it from everywhere until every pod has answered every client, or until the time is
// over: then the report says who did not. An error means that the measuring failed.
func Run(ctx context.Context, l *lab.Lab, apply Applier, options Options) (*Report, error) {
	servers, err := serve(ctx, l)
	if err != nil {
		return nil, err
	}
	defer servers.close()
	documents, err := manifest.Parse([]byte(service))
	if err != nil {
		return nil, err
	}
	svc, err := apply(ctx, documents[0])
	if err != nil {
		return nil, fmt.Errorf("make Service %s: %w", name, err)
	}
	deadline := time.Now().Add(options.Timeout)
	for {
		report, err := measure(ctx, l, svc, options.Connections)
		if err != nil || report.OK() || time.Now().After(deadline) || ctx.Err() != nil {
			return report, errors.Join(err, ctx.Err())
		}
	}
}

// plan lists the clients.
func plan(l *lab.Lab, svc *corev1.Service) ([]Row, error) {
	var rows []Row
	for _, text := range svc.Spec.ClusterIPs {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return nil, fmt.Errorf("ClusterIP of Service %s: %w", name, err)
		}
		to := netip.AddrPortFrom(addr, port)
		seen := map[*lab.Node]bool{}
		for _, p := range l.Pods() {
			if !seen[p.Node] {
				seen[p.Node] = true
				rows = append(rows, Row{From: p.Name, To: to, source: p.Netns()})
			}
		}
		for _, n := range l.Nodes() {
			rows = append(rows, Row{From: n.Name, To: to, source: n.Netns()})
		}
	}
	for _, n := range l.Nodes() {
		for _, addr := range n.Addrs() {
			rows = append(rows, Row{From: "outside", To: netip.AddrPortFrom(addr, uint16(svc.Spec.Ports[0].NodePort)), source: l.Underlay()})
		}
	}
	return rows, nil
}

func measure(ctx context.Context, l *lab.Lab, svc *corev1.Service, connections int) (*Report, error) {
	rows, err := plan(l, svc)
	if err != nil {
		return nil, err
	}
	report := &Report{Service: svc.Namespace + "/" + svc.Name, Rows: rows}
	for _, p := range l.Pods() {
		report.Pods = append(report.Pods, p.Name)
	}
	for i := range rows {
		row := &rows[i]
		row.Answers = map[string]int{}
		for range connections {
			who, answer := probe.Who(ctx, row.source, store.TCP, row.To, time.Second)
			if answer.Outcome != probe.Reached {
				row.Error = answer.Detail
				break // the next round tells whether it was too early
			}
			row.Answers[who]++
		}
	}
	return report, nil
}

// servers are those in the pods.
type servers []*probe.Server

func (s servers) close() {
	for _, one := range s {
		one.Close()
	}
}

// serve starts a server in each pod that says the pod's name.
func serve(ctx context.Context, l *lab.Lab) (servers, error) {
	var all servers
	for _, p := range l.Pods() {
		var at []netip.AddrPort
		for _, addr := range p.Addrs() {
			at = append(at, netip.AddrPortFrom(addr, targetPort))
		}
		s, err := probe.Serve(ctx, p.Netns(), p.Name, at...)
		if err != nil {
			all.close()
			return nil, fmt.Errorf("serve in pod %s: %w", p.Name, err)
		}
		all = append(all, s)
	}
	return all, nil
}
