package storetest

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/manifest"
)

// ServiceHarness is the backend of a store.ServiceSource in the hands of a test. Its methods fail the test when they cannot do their work.
type ServiceHarness interface {
	Backend
	// Source returns a new node's source. It works while the backend is stopped.
	Source() store.ServiceSource
	// PutService and PutSlice make the backend hold an object, new or in place of the one with its name; namespace default.
	PutService(svc *corev1.Service)
	PutSlice(slice *discoveryv1.EndpointSlice)
	DeleteService(name string)
	DeleteSlice(name string)
}

// RunServices runs the contract suite of store.ServiceSource. newHarness returns a running backend that holds no Service of the suite's; Services
// in other namespaces than default, and one called kubernetes, are not looked at.
func RunServices(t *testing.T, newHarness func(t *testing.T) ServiceHarness) {
	for _, test := range []struct {
		name string
		run  func(s *serviceSuite)
	}{
		{"the first change is a whole reset", testFirstReset},
		{"objects come, change and go", testObjects},
		{"what says the same is not told", testSameObject},
		{"down at start", testServicesDownAtStart},
		{"outage", testServicesOutage},
		{"compacted during an outage", testServicesCompacted},
		{"several sources", testSources},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(&serviceSuite{T: t, ServiceHarness: newHarness(t)}) })
	}
}

type serviceSuite struct {
	*testing.T
	ServiceHarness
}

// TestService returns a defaulted Service of one port without a selector.
func TestService(name string, port int32) *corev1.Service {
	svc := &corev1.Service{}
	svc.Name = name
	svc.Spec.Ports = []corev1.ServicePort{{Port: port, TargetPort: intstr.FromInt32(port)}}
	manifest.DefaultService(svc)
	return svc
}

// TestSlice returns a slice of the Service with these endpoints.
func TestSlice(name, service string, addresses ...string) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Port: new(int32(8080))}}}
	slice.Name, slice.Labels = name, map[string]string{discoveryv1.LabelServiceName: service}
	for _, a := range addresses {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}})
	}
	manifest.DefaultEndpointSlice(slice)
	return slice
}

// View is what a source told, put together. It is for one goroutine.
type View struct {
	*watching[store.ServiceChanges]

	Services map[store.ObjectName]*store.Service
	Slices   map[store.ObjectName]*store.EndpointSlice
	Networks []netip.Prefix
	Rejected []store.Reject
}

// WatchServices follows a source until the test ends or Stop is called.
func WatchServices(t testing.TB, source store.ServiceSource) *View {
	v := &View{}
	v.watching = newWatching(t, source.WatchServices, v.take, func() string {
		return fmt.Sprintf("%d services, %d slices, rejected %v", len(v.Services), len(v.Slices), v.Rejected)
	})
	return v
}

func (v *View) take(c store.ServiceChanges) {
	v.t.Helper()
	if v.Told == 0 && !c.Reset {
		v.t.Error("the first change is no reset")
	}
	if c.Reset {
		v.Services, v.Slices = map[store.ObjectName]*store.Service{}, map[store.ObjectName]*store.EndpointSlice{}
	}
	for name, s := range c.Services {
		if ours(name) {
			set(v.Services, name, s)
		}
	}
	for name, s := range c.Slices {
		if s == nil || ours(store.ObjectName{Namespace: name.Namespace, Name: s.Service}) {
			set(v.Slices, name, s)
		}
	}
	if c.Networks != nil {
		v.Networks = c.Networks
	}
	v.Rejected = append(v.Rejected, c.Rejected...)
}

func ours(name store.ObjectName) bool {
	return name.Namespace == "default" && name.Name != "kubernetes"
}

func set[T any](m map[store.ObjectName]*T, name store.ObjectName, value *T) {
	if value == nil {
		delete(m, name)
		return
	}
	m[name] = value
}

// holds waits until the view is of exactly these objects; a Service is given as NAME:PORT, a slice as NAME:FIRST-ADDRESS.
func (v *View) holds(want ...string) {
	v.t.Helper()
	var have map[string]bool
	wanted := map[string]bool{}
	for _, w := range want {
		wanted[w] = true
	}
	v.Until(fmt.Sprintf("%v", want), func() bool {
		have = map[string]bool{}
		for n, s := range v.Services {
			have[fmt.Sprintf("%s:%d", n.Name, s.Ports[0].Port)] = true
		}
		for n, s := range v.Slices {
			have[fmt.Sprintf("%s:%s", n.Name, s.Endpoints[0].Addr)] = true
		}
		return cmp.Equal(wanted, have)
	})
}

func testFirstReset(s *serviceSuite) {
	s.PutService(TestService("a", 80))
	s.PutSlice(TestSlice("a-1", "a", "10.0.0.1"))
	v := WatchServices(s, s.Source())
	v.Until("a change", func() bool { return true })
	v.holds("a:80", "a-1:10.0.0.1")
	if v.Told != 1 {
		s.Errorf("what was there came with %d changes", v.Told)
	}
	want := &store.EndpointSlice{Name: store.ObjectName{Namespace: "default", Name: "a-1"}, Service: "a",
		Ports:     []store.EndpointPort{{Protocol: store.TCP, Port: 8080}},
		Endpoints: []store.Endpoint{{Addr: netip.MustParseAddr("10.0.0.1"), Ready: true, Serving: true}}}
	if diff := cmp.Diff(want, v.Slices[want.Name], cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		s.Error(diff)
	}
	svc := v.Services[store.ObjectName{Namespace: "default", Name: "a"}]
	if len(svc.ClusterIPs) != 1 || svc.Type != store.ServiceClusterIP || svc.Created.IsZero() || svc.Ports[0].Protocol != store.TCP {
		s.Errorf("have %+v", svc)
	}
	if len(v.Networks) == 0 || !v.Networks[0].Contains(svc.ClusterIPs[0]) {
		s.Errorf("the address %s is not from the networks %v", svc.ClusterIPs[0], v.Networks)
	}
	if err := v.Stop(); !errors.Is(err, context.Canceled) {
		s.Errorf("a cancelled watch returned %v", err)
	}
}

func testObjects(s *serviceSuite) {
	v := WatchServices(s, s.Source())
	v.holds()
	s.PutService(TestService("a", 80))
	v.holds("a:80")
	s.PutSlice(TestSlice("a-1", "a", "10.0.0.1"))
	s.PutService(TestService("b", 81))
	v.holds("a:80", "a-1:10.0.0.1", "b:81")
	s.PutService(TestService("a", 82))
	s.PutSlice(TestSlice("a-1", "a", "10.0.0.2"))
	v.holds("a:82", "a-1:10.0.0.2", "b:81")
	s.DeleteSlice("a-1")
	s.DeleteService("b")
	v.holds("a:82")
	s.DeleteService("a")
	s.PutService(TestService("a", 83))
	v.holds("a:83")
}

func testSameObject(s *serviceSuite) {
	s.PutService(TestService("a", 80))
	v := WatchServices(s, s.Source())
	v.holds("a:80")
	told := v.Told
	s.PutService(TestService("a", 80))
	s.PutService(TestService("b", 80))
	v.holds("a:80", "b:80")
	if v.Told > told+1 {
		s.Errorf("one new Service was told in %d changes", v.Told-told)
	}
}

func testServicesDownAtStart(s *serviceSuite) {
	s.PutService(TestService("a", 80))
	s.Stop()
	v := WatchServices(s, s.Source())
	<-time.After(200 * time.Millisecond) // it has tried
	if !v.Still() {
		s.Error("something came from a stopped backend")
	}
	s.Start()
	v.holds("a:80")
}

func testServicesOutage(s *serviceSuite) {
	s.PutService(TestService("a", 80))
	v := WatchServices(s, s.Source())
	v.holds("a:80")
	for i := range 2 {
		s.Stop()
		if !v.Still() {
			s.Error("the outage was told as a change")
		}
		s.Start()
		s.PutService(TestService("b", int32(100+i)))
		v.holds("a:80", fmt.Sprintf("b:%d", 100+i))
	}
}

func testServicesCompacted(s *serviceSuite) {
	for _, name := range []string{"a", "b", "c"} {
		s.PutService(TestService(name, 80))
	}
	v := WatchServices(s, s.Source())
	v.holds("a:80", "b:80", "c:80")
	s.Stop()
	s.Start()
	s.DeleteService("a")
	s.PutService(TestService("b", 81))
	s.PutService(TestService("d", 80))
	s.Compact()
	v.holds("b:81", "c:80", "d:80")
}

func testSources(s *serviceSuite) {
	a := s.Source()
	v, w := WatchServices(s, a), WatchServices(s, a)
	s.PutService(TestService("a", 80))
	v.holds("a:80")
	w.holds("a:80")
	if err := v.Stop(); !errors.Is(err, context.Canceled) {
		s.Error(err)
	}
	s.PutService(TestService("b", 80))
	w.holds("a:80", "b:80")
}
