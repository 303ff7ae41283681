package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/endpoints"
	"github.com/twill-cni/twill/store/etcd"
	"github.com/twill-cni/twill/store/manifest"
)

const kindPod = "Pod"

// kinds are the names that a type has on the command line.
var kinds = map[string]string{
	"services": manifest.KindService, "service": manifest.KindService, "svc": manifest.KindService,
	"endpointslices": manifest.KindEndpointSlice, "endpointslice": manifest.KindEndpointSlice,
	"endpoints": manifest.KindEndpoints, "ep": manifest.KindEndpoints,
	"pods": kindPod, "pod": kindPod, "po": kindPod,
	"networkpolicies": manifest.KindNetworkPolicy, "networkpolicy": manifest.KindNetworkPolicy, "netpol": manifest.KindNetworkPolicy,
	"clusternetworkpolicies": manifest.KindClusterNetworkPolicy, "clusternetworkpolicy": manifest.KindClusterNetworkPolicy,
	"cnp": manifest.KindClusterNetworkPolicy, "namespaces": manifest.KindNamespace, "namespace": manifest.KindNamespace, "ns": manifest.KindNamespace,
}

// getOptions are the flags of get.
type getOptions struct {
	namespace string
	all       bool
	output    string
}

func newGet(to streams) *cobra.Command {
	flags := &datastoreFlags{}
	var options getOptions
	cmd := &cobra.Command{
		Use:   "get TYPE [NAME...]",
		Short: "list Services, EndpointSlices, pods or policies from etcd",
		Long: `get lists what etcd holds of services, endpointslices, pods, networkpolicies,
clusternetworkpolicies or namespaces. Among the slices are those that follow from a
Service's selector and the pods that it selects; they are not stored, every node works
them out. Namespaces are those that were stored: others have no labels but their name.`,
		Example: `  twillctl get services --lab demo
  twillctl get service web -o yaml --lab demo
  twillctl get endpointslices -A --lab demo
  twillctl get pods -o wide --lab demo`,
		Args:      cobra.MinimumNArgs(1),
		ValidArgs: []string{"services", "endpointslices", "pods", "networkpolicies", "clusternetworkpolicies", "namespaces"},
	}
	cmd.Flags().StringVarP(&options.namespace, "namespace", "n", manifest.DefaultNamespace, "namespace")
	cmd.Flags().BoolVarP(&options.all, "all-namespaces", "A", false, "all namespaces")
	addFormat(cmd, &options.output, "wide")
	flags.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		kind, ok := kinds[strings.ToLower(args[0])]
		if !ok || kind == manifest.KindEndpoints {
			return fmt.Errorf("type %q: want services, endpointslices, pods, networkpolicies, clusternetworkpolicies or namespaces", args[0])
		}
		return flags.with(func(s *etcd.Store) error {
			r, err := s.Registry(cmd.Context())
			if err != nil {
				return err
			}
			for _, reject := range r.Rejected {
				fmt.Fprintf(to.err, "twillctl: %s is skipped: %v\n", reject.Key, reject.Err)
			}
			l := listing{options: options, names: args[1:], now: time.Now(), slices: allSlices(r)}
			return l.print(to.out, kind, r)
		})
	}
	return cmd
}

// slice is an EndpointSlice and where it comes from.
type slice struct {
	*discoveryv1.EndpointSlice
	source string
}

// allSlices returns the slices that are stored and those that follow from selectors.
func allSlices(r etcd.Registry) []slice {
	var out []slice
	for _, s := range r.Slices {
		out = append(out, slice{s, "manifest"})
	}
	b := endpoints.New()
	for _, object := range r.Services {
		if svc, err := manifest.FromService(object); err == nil {
			b.SetService(svc.Name, svc)
		}
	}
	for _, p := range r.Pods {
		b.SetPod(p.Key(), p)
	}
	made := b.Take()
	for _, name := range slices.SortedFunc(maps.Keys(made), store.ObjectName.Compare) {
		out = append(out, slice{manifest.ToEndpointSlice(made[name]), "selector"})
	}
	return out
}

// listing prints objects.
type listing struct {
	options getOptions
	names   []string
	now     time.Time
	slices  []slice
}

// wanted reports whether an object is asked for.
func (l *listing) wanted(namespace, name string) bool {
	return (l.options.all || namespace == l.options.namespace) && (len(l.names) == 0 || slices.Contains(l.names, name))
}

// table is what a listing found.
type table struct {
	header  []any
	rows    [][]any
	objects []any
	found   map[string]bool // names
}

func (t *table) add(name string, object any, row []any) {
	t.objects, t.rows, t.found[name] = append(t.objects, object), append(t.rows, row), true
}

func (l *listing) print(w io.Writer, kind string, r etcd.Registry) error {
	t := &table{found: map[string]bool{}}
	switch kind {
	case manifest.KindService:
		l.services(t, r.Services)
	case manifest.KindEndpointSlice:
		l.endpointSlices(t)
	case manifest.KindNetworkPolicy:
		l.networkPolicies(t, r.NetworkPolicies)
	case manifest.KindClusterNetworkPolicy:
		l.clusterPolicies(t, r.ClusterPolicies)
	case manifest.KindNamespace:
		l.namespaces(t, r.Namespaces)
	default:
		l.pods(t, r.Pods)
	}
	for _, name := range l.names {
		if !t.found[name] {
			return fmt.Errorf("%s: %w", manifest.Title(kind, store.ObjectName{Namespace: l.options.namespace, Name: name}), etcd.ErrNotFound)
		}
	}
	switch l.options.output {
	case "yaml", "json":
		return printObjects(w, l.options.output, t.objects, len(l.names) == 1 && len(t.objects) == 1)
	}
	return printTable(w, func(row func(cells ...any)) {
		header := t.header
		if !manifest.ClusterScoped(kind) {
			header = l.inNamespace("NAMESPACE", header)
		}
		row(header...)
		for _, r := range t.rows {
			row(r...)
		}
	})
}

func (l *listing) wide() bool { return l.options.output == "wide" }

func (l *listing) services(t *table, all []*corev1.Service) {
	t.header = []any{"NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "ENDPOINTS", "AGE"}
	if l.wide() {
		t.header = append(t.header, "SELECTOR")
	}
	for _, s := range all {
		if !l.wanted(s.Namespace, s.Name) {
			continue
		}
		row := []any{s.Name, s.Spec.Type, dash(strings.Join(s.Spec.ClusterIPs, ",")), dash(externalOf(s)), dash(portsOf(s)), l.endpointsOf(s), age(s.CreationTimestamp.Time, l.now)}
		if l.wide() {
			row = append(row, dash(pairs(s.Spec.Selector)))
		}
		t.add(s.Name, s, l.inNamespace(s.Namespace, row))
	}
}

func (l *listing) endpointSlices(t *table) {
	t.header = []any{"NAME", "SERVICE", "SOURCE", "PORTS", "ENDPOINTS"}
	for _, s := range l.slices {
		if l.wanted(s.Namespace, s.Name) {
			row := []any{s.Name, s.Labels[discoveryv1.LabelServiceName], s.source, dash(slicePorts(s)), dash(addressesOf(s, l.wide()))}
			t.add(s.Name, s.EndpointSlice, l.inNamespace(s.Namespace, row))
		}
	}
}

func (l *listing) pods(t *table, all []*store.Pod) {
	t.header = []any{"NAME", "NODE", "READY", "ADDRESSES"}
	if l.wide() {
		t.header = append(t.header, "PORTS", "LABELS")
	}
	for _, p := range all {
		if !l.wanted(p.Name.Namespace, p.Name.Name) {
			continue
		}
		row := []any{p.Name.Name, p.Node, p.Ready, dash(joinAddrs(p.Addrs))}
		if l.wide() {
			row = append(row, dash(podPorts(p)), dash(pairs(p.Labels)))
		}
		t.add(p.Name.Name, podObject(p), l.inNamespace(p.Name.Namespace, row))
	}
}

// inNamespace puts the namespace before a row when there may be several.
func (l *listing) inNamespace(namespace string, row []any) []any {
	if !l.options.all {
		return row
	}
	return append([]any{namespace}, row...)
}

// endpointsOf is how many ready endpoints a Service has, of how many.
func (l *listing) endpointsOf(svc *corev1.Service) string {
	ready, all := map[string]bool{}, map[string]bool{}
	for _, s := range l.slices {
		if s.Namespace != svc.Namespace || s.Labels[discoveryv1.LabelServiceName] != svc.Name {
			continue
		}
		for _, e := range s.Endpoints {
			all[e.Addresses[0]] = true
			if e.Conditions.Ready == nil || *e.Conditions.Ready {
				ready[e.Addresses[0]] = true
			}
		}
	}
	return fmt.Sprintf("%d/%d", len(ready), len(all))
}

func externalOf(s *corev1.Service) string {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return s.Spec.ExternalName
	}
	out := slices.Clone(s.Spec.ExternalIPs)
	for _, in := range s.Status.LoadBalancer.Ingress {
		out = append(out, in.IP+in.Hostname)
	}
	return strings.Join(out, ",")
}

func portsOf(s *corev1.Service) string {
	var out []string
	for _, p := range s.Spec.Ports {
		text := fmt.Sprint(p.Port)
		if p.NodePort != 0 {
			text += fmt.Sprintf(":%d", p.NodePort)
		}
		out = append(out, text+"/"+string(p.Protocol))
	}
	return strings.Join(out, ",")
}

func slicePorts(s slice) string {
	var out []string
	for _, p := range s.Ports {
		if p.Port != nil && p.Protocol != nil {
			out = append(out, fmt.Sprintf("%d/%s", *p.Port, *p.Protocol))
		}
	}
	return strings.Join(out, ",")
}

// addressesOf lists a slice's endpoints, those beyond the third as a number unless all are wanted.
func addressesOf(s slice, all bool) string {
	var out []string
	for i, e := range s.Endpoints {
		if i == 3 && !all {
			out = append(out, fmt.Sprintf("%d more", len(s.Endpoints)-i))
			break
		}
		text := e.Addresses[0]
		if e.Conditions.Ready != nil && !*e.Conditions.Ready {
			text += "(not ready)"
		}
		out = append(out, text)
	}
	return strings.Join(out, ",")
}

func pairs(m map[string]string) string {
	var out []string
	for _, key := range slices.Sorted(maps.Keys(m)) {
		out = append(out, key+"="+m[key])
	}
	return strings.Join(out, ",")
}

// podPorts are a pod's named ports.
func podPorts(p *store.Pod) string {
	var out []string
	for _, port := range p.Ports {
		out = append(out, fmt.Sprintf("%s:%d/%s", port.Name, port.Port, port.Protocol))
	}
	return strings.Join(out, ",")
}

// podObject is a pod in the form in which Kubernetes shows one.
func podObject(p *store.Pod) any {
	var ips []map[string]string
	for _, a := range p.Addrs {
		ips = append(ips, map[string]string{"ip": a.String()})
	}
	return map[string]any{
		"apiVersion": "v1", "kind": kindPod,
		"metadata": map[string]any{"namespace": p.Name.Namespace, "name": p.Name.Name, "labels": p.Labels},
		"spec":     map[string]any{"nodeName": p.Node},
		"status":   map[string]any{"podIPs": ips, "ready": p.Ready},
	}
}

func printObjects(w io.Writer, format string, objects []any, single bool) error {
	var value any = map[string]any{"apiVersion": "v1", "kind": "List", "items": append([]any{}, objects...)}
	if single {
		value = objects[0]
	}
	return printAs(w, format, value, nil)
}
