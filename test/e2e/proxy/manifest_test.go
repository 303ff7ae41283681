package proxy

import (
	"fmt"
	"strings"
)

// The manifests of scenarios are written with these few words. In them, $name stands for an address or a number of the scenario's own: see
// (*rig).vars.

// dual gives a Service a ClusterIP of each family that no other scenario has.
const dual = "ipFamilyPolicy: RequireDualStack, clusterIP: $vip4, clusterIPs: [$vip4, '$vip6']"

// service returns a Service with the fields of its spec.
func service(name string, fields ...string) string {
	return fmt.Sprintf("---\napiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: $ns}\nspec: {%s}\n", name, strings.Join(fields, ", "))
}

// web returns the Service "web" with a port 80, ClusterIPs of both families and more fields.
func web(fields ...string) string {
	return service("web", append([]string{dual, "ports: [{port: 80, targetPort: 8080, nodePort: $np}]"}, fields...)...)
}

// inside is web without a node port.
func inside(fields ...string) string {
	return service("web", append([]string{dual, "ports: [{port: 80, targetPort: 8080}]"}, fields...)...)
}

// status is the load balancer's word, to follow a Service.
func status(ingress string) string {
	return "status: {loadBalancer: {ingress: [" + ingress + "]}}\n"
}

// Where load balancers say that they answer.
var (
	vips    = status("{ip: $lb4, ipMode: VIP}, {ip: '$lb6', ipMode: VIP}")
	proxied = status("{ip: $lb4, ipMode: Proxy}, {ip: '$lb6', ipMode: Proxy}")
)

// slice is an EndpointSlice of each family.
type slice struct {
	service string // default web
	name    string // default that of the service
	ports   string // default {port: 8080}
	// endpoints are machines' names, each perhaps with one of /draining (terminating, but serving), /gone (terminating, and no more serving), /unready,
	// and with @ZONE or %NODE for a hint.
	endpoints string
}

// backed returns slices of the Service "web" with these endpoints.
func backed(endpoints string) string { return slice{endpoints: endpoints}.yaml() }

func (s slice) yaml() string {
	if s.service == "" {
		s.service = "web"
	}
	if s.name == "" {
		s.name = s.service
	}
	if s.ports == "" {
		s.ports = "{port: 8080}"
	}
	var out strings.Builder
	for _, family := range []string{"4", "6"} {
		fmt.Fprintf(&out, "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv%s\n", family)
		fmt.Fprintf(&out, "metadata: {name: %s-%s, namespace: $ns, labels: {kubernetes.io/service-name: %s}}\nports: [%s]\nendpoints:\n",
			s.name, family, s.service, s.ports)
		for endpoint := range strings.FieldsSeq(s.endpoints) {
			out.WriteString(endpointYAML(endpoint, family))
		}
		if s.endpoints == "" {
			out.WriteString("  []\n")
		}
	}
	return out.String()
}

func endpointYAML(endpoint, family string) string {
	hint := ""
	if e, zone, ok := strings.Cut(endpoint, "@"); ok {
		endpoint, hint = e, fmt.Sprintf(", hints: {forZones: [{name: %s}]}", zone)
	}
	if e, node, ok := strings.Cut(endpoint, "%"); ok {
		endpoint, hint = e, fmt.Sprintf(", hints: {forNodes: [{name: %s}]}", node)
	}
	name, state, _ := strings.Cut(endpoint, "/")
	conditions := map[string]string{
		"":         "ready: true, serving: true, terminating: false",
		"draining": "ready: false, serving: true, terminating: true",
		"gone":     "ready: false, serving: false, terminating: true",
		"unready":  "ready: false, serving: false, terminating: false",
	}[state]
	node := name
	for n, pods := range podNames {
		if strings.Contains(strings.Join(pods, " "), name) {
			node = n
		}
	}
	return fmt.Sprintf("  - {addresses: ['$%s%s'], nodeName: %s, zone: zone-%s, conditions: {%s}%s}\n", name, family, node, node, conditions, hint)
}
