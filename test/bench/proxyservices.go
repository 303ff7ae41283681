package main

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/twill-cni/twill/store/manifest"
	"github.com/twill-cni/twill/test/kubetest"
)

// A made-up Service has a number: its address, its endpoints' and its name follow from it. It has one port and, but for those of
// one endpoint each that changes are tried on, endpointsEach endpoints.
type madeUp struct {
	number    int
	endpoints []netip.Addr
	sticky    bool // sessionAffinity ClientIP
}

const (
	endpointsEach = 5
	sliceSize     = 100 // endpoints, as Kubernetes' controller cuts them
	servicePort   = 80
	// uncommon is the number of the first Service that is not one of many.
	uncommon = 60_000
)

// common returns one of the many Services.
func common(number int) madeUp {
	return madeUp{number: number, endpoints: endpointAddrs(number*endpointsEach, endpointsEach)}
}

// endpointAddrs returns n addresses of endpoints.
func endpointAddrs(first, n int) []netip.Addr {
	out := make([]netip.Addr, n)
	for i := range out {
		out[i] = addrAfter(firstEndpoint, first+i)
	}
	return out
}

func addrAfter(a netip.Addr, n int) netip.Addr {
	b := a.As4()
	v := int(b[0])<<24 + int(b[1])<<16 + int(b[2])<<8 + int(b[3]) + n
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

func (m madeUp) name() string { return fmt.Sprintf("service-%05d", m.number) }

// at is where the Service answers. The lowest addresses of the default network are those that the API server gives away last.
func (m madeUp) at() netip.AddrPort {
	return netip.AddrPortFrom(addrAfter(netip.MustParseAddr("10.96.4.0"), m.number), servicePort)
}

// meta is what the API server would have added to an object.
func (m madeUp) meta(name string, labels map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Name: name, Namespace: "default", Labels: labels, CreationTimestamp: metav1.Now(),
		UID: types.UID(fmt.Sprintf("%08x-0000-4000-8000-%012x", m.number, len(name)))}
}

func (m madeUp) service() *corev1.Service {
	single, cluster := corev1.IPFamilyPolicySingleStack, corev1.ServiceInternalTrafficPolicyCluster
	addr := m.at().Addr().String()
	s := &corev1.Service{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Service"},
		ObjectMeta: m.meta(m.name(), map[string]string{"app": m.name()}),
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: addr, ClusterIPs: []string{addr}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			IPFamilyPolicy: &single, InternalTrafficPolicy: &cluster, SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: servicePort, TargetPort: intstr.FromInt32(endpointPort)}},
		},
	}
	if m.sticky {
		timeout := int32(10800)
		s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &timeout}}
	}
	return s
}

// slices returns the EndpointSlices as Kubernetes' controller would write them for pods.
func (m madeUp) slices() []*discoveryv1.EndpointSlice {
	yes, no, name, port, tcp, node := true, false, "http", int32(endpointPort), corev1.ProtocolTCP, "another-node"
	var out []*discoveryv1.EndpointSlice
	for i := 0; i < len(m.endpoints); i += sliceSize {
		s := &discoveryv1.EndpointSlice{
			TypeMeta: metav1.TypeMeta{APIVersion: "discovery.k8s.io/v1", Kind: "EndpointSlice"},
			ObjectMeta: m.meta(fmt.Sprintf("%s-%d", m.name(), i/sliceSize), map[string]string{"app": m.name(), discoveryv1.LabelServiceName: m.name(),
				discoveryv1.LabelManagedBy: "endpointslice-controller.k8s.io"}),
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &tcp}},
		}
		for k, addr := range m.endpoints[i:min(i+sliceSize, len(m.endpoints))] {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{addr.String()}, NodeName: &node,
				Conditions: discoveryv1.EndpointConditions{Ready: &yes, Serving: &yes, Terminating: &no},
				TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: fmt.Sprintf("%s-7d4b9c6f5-%05d", m.name(), k),
					UID: types.UID(fmt.Sprintf("%08x-0000-4000-9000-%012x", m.number, k))}})
		}
		out = append(out, s)
	}
	return out
}

// allocation is how the API server remembers that the address is taken.
func (m madeUp) allocation() *networkingv1.IPAddress {
	o := &networkingv1.IPAddress{
		TypeMeta: metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "IPAddress"},
		ObjectMeta: m.meta(m.at().Addr().String(), map[string]string{networkingv1.LabelIPAddressFamily: "IPv4",
			networkingv1.LabelManagedBy: "ipallocator.k8s.io"}),
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: "default", Name: m.name()}},
	}
	o.Namespace = ""
	return o
}

// registry writes made-up Services where a source of Services keeps them.
type registry struct {
	client *clientv3.Client
	ops    []clientv3.Op
	put    func(ctx context.Context, m madeUp) error
	after  func(ctx context.Context, last madeUp) error
	have   int // of the common ones
}

// grow makes the first n of the common Services exist.
func (r *registry) grow(ctx context.Context, n int) error {
	var all []madeUp
	for ; r.have < n; r.have++ {
		all = append(all, common(r.have))
	}
	return r.add(ctx, all...)
}

// add writes Services.
func (r *registry) add(ctx context.Context, all ...madeUp) error {
	for _, m := range all {
		if err := r.put(ctx, m); err != nil {
			return fmt.Errorf("write %s: %w", m.name(), err)
		}
	}
	if err := r.flush(ctx); err != nil || len(all) == 0 {
		return err
	}
	return r.after(ctx, all[len(all)-1])
}

func (r *registry) write(ctx context.Context, key string, value []byte) error {
	r.ops = append(r.ops, clientv3.OpPut(key, string(value)))
	if len(r.ops) < 1024 {
		return nil
	}
	return r.flush(ctx)
}

// flush writes what was gathered, each key by itself: Kubernetes relies on no two objects having the same revision. What a transaction writes
// has one, and of that, a watch that was interrupted never sees the rest.
func (r *registry) flush(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(64)
	for _, op := range r.ops {
		g.Go(func() error {
			_, err := r.client.Do(ctx, op)
			return err
		})
	}
	r.ops = r.ops[:0]
	return g.Wait()
}

// inKubernetes writes the objects into the API server's etcd, in the API server's own encoding: through the API, 10,000 Services take
// minutes. The API server learns of them as it learns of what another API server writes, and serves them as any others.
func inKubernetes(c *kubetest.Cluster) (*registry, error) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{c.EtcdEndpoint()}, DialTimeout: 5 * time.Second})
	if err != nil {
		return nil, fmt.Errorf("reach the cluster's etcd: %w", err)
	}
	r := &registry{client: client}
	encoder := protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)
	put := func(ctx context.Context, key string, o runtime.Object) error {
		value, err := runtime.Encode(encoder, o)
		if err != nil {
			return err
		}
		return r.write(ctx, "/registry/"+key, value)
	}
	r.put = func(ctx context.Context, m madeUp) error {
		if err := put(ctx, "ipaddresses/"+m.at().Addr().String(), m.allocation()); err != nil {
			return err
		}
		for _, s := range m.slices() {
			if err := put(ctx, "endpointslices/default/"+s.Name, s); err != nil {
				return err
			}
		}
		return put(ctx, "services/specs/default/"+m.name(), m.service())
	}
	r.after = func(ctx context.Context, last madeUp) error { return served(ctx, c, last) }
	return r, nil
}

// served waits until the API server's cache, which answers those who watch, holds a Service.
func served(ctx context.Context, c *kubetest.Cluster, m madeUp) error {
	slices := m.slices()
	for _, path := range []string{"/api/v1/namespaces/default/services/" + m.name(), slicePath(slices[len(slices)-1].Name)} {
		for end := time.Now().Add(limit); ; {
			_, err := c.Do(ctx, kubetest.Request{Path: path + "?resourceVersion=0"})
			if err == nil {
				break
			}
			if !kubetest.IsNotFound(err) || time.Now().After(end) {
				return fmt.Errorf("wait for the API server to serve %s: %w", m.name(), err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	return nil
}

func slicePath(name string) string {
	return "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/" + name
}

// move replaces the EndpointSlices of a Service through the API.
func move(ctx context.Context, c *kubetest.Cluster, m madeUp) error {
	for _, s := range m.slices() {
		body, err := manifest.Encode(s)
		if err != nil {
			return err
		}
		if _, err := c.Do(ctx, kubetest.Request{Method: http.MethodPut, Path: slicePath(s.Name), Body: body}); err != nil {
			return err
		}
	}
	return nil
}

// inEtcd writes the manifests as twillctl apply does, for clusters without Kubernetes.
func inEtcd(client *clientv3.Client) *registry {
	r := &registry{client: client, after: func(context.Context, madeUp) error { return nil }}
	r.put = func(ctx context.Context, m madeUp) error {
		value, err := manifest.Encode(m.service())
		if err != nil {
			return err
		}
		if err := r.write(ctx, etcdPrefix+"/registry/services/default/"+m.name(), value); err != nil {
			return err
		}
		for _, s := range m.slices() {
			if value, err = manifest.Encode(s); err != nil {
				return err
			}
			if err := r.write(ctx, etcdPrefix+"/registry/endpointslices/default/"+s.Name, value); err != nil {
				return err
			}
		}
		return nil
	}
	return r
}
