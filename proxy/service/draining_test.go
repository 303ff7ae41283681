package service_test

import (
	"fmt"
	"testing"

	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
)

// Who gets no new connections, and may go on with those that are there.
func TestDraining(t *testing.T) {
	reset := func(s *store.Service) { s.ResetConnections = true }
	udp := func(s *store.Service) { s.Ports[0].Protocol = store.UDP }
	tests := []struct {
		name string
		svc  *store.Service
		pods []string
		want string
	}{
		{"TCP does not ask", web(), []string{"10.244.1.5", "10.244.1.6 draining"}, "[]"},
		{"TCP that terminates", web(reset), []string{"10.244.1.5", "10.244.1.6 draining", "10.244.1.7 dying"}, "[10.244.1.6:8080 10.244.1.7:8080]"},
		{"UDP that terminates", web(udp), []string{"10.244.1.5", "10.244.1.6 draining", "10.244.1.7 dying"}, "[10.244.1.6:8080]"},
		{"not ready and not terminating is dead", web(reset), []string{"10.244.1.5", "10.244.1.6 unready"}, "[]"},
		{"the last that serve are endpoints", web(reset), []string{"10.244.1.6 draining"}, "[]"},
		{"weighs nothing", web(reset, func(s *store.Service) { s.Weights = map[string]uint32{"10.244.1.6": 0} }),
			[]string{"10.244.1.5", "10.244.1.6"}, "[10.244.1.6:8080]"},
		{"meant for other zones", web(reset), []string{"10.244.1.5 zones=zone-1", "10.244.3.6 zones=zone-2"}, "[10.244.3.6:8080]"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			slice := pods(tt.pods...)
			slice.Ports[0].Protocol = tt.svc.Ports[0].Protocol
			f := service.Resolve(tt.svc, sliceList{slice}, testNode()).Frontends[0]
			if have := fmt.Sprint(f.Draining); have != tt.want {
				t.Errorf("have %s, want %s", have, tt.want)
			}
			if f.ResetConnections != tt.svc.ResetConnections {
				t.Error("the frontend does not say what the Service does")
			}
		})
	}
}
