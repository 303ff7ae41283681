package kube

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"
)

// testHostPorts: a host port leads to its pod from everywhere, in both families, and ends with it.
func testHostPorts(t *testing.T, r *rig) {
	pods := r.standingPods(t)
	p := server("host-port", r.Machines[0])
	container(p)["ports"] = []fields{{"containerPort": 8080, "hostPort": 8085, "protocol": "TCP"}, {"containerPort": 8080, "hostPort": 8085, "protocol": "UDP"}}
	r.run(t, p)
	probes := func(want string) []probe {
		var all []probe
		for _, addr := range r.Machines[0].Addrs() {
			all = append(all, probe{url(addr, 8085, "/hostname"), want})
		}
		return all
	}
	r.becomes(t, func(ctx context.Context) error {
		return errors.Join(r.askOutside(ctx, probes("host-port")...), r.ask(ctx, pods[0].name, probes("host-port")...), r.ask(ctx, pods[1].name, probes("host-port")...),
			r.ask(ctx, "host-port", probes("host-port")...), askFrom(ctx, r.Machines[0], probes("host-port")...), askFrom(ctx, r.Machines[1], probes("host-port")...))
	})
	t.Run("udp", func(t *testing.T) {
		for _, addr := range r.Machines[0].Addrs() {
			out, err := r.exec(t.Context(), pods[1].name, fmt.Sprintf("echo hostname | /usr/bin/nc -u -w 1 %v 8085", addr))
			if err != nil || out != "host-port" {
				t.Errorf("%v answers %q, %v", addr, out, err)
			}
		}
	})
	t.Run("source", func(t *testing.T) {
		gateways := r.Underlay.Gateways()
		var all []probe
		for i, addr := range r.Machines[0].Addrs() {
			all = append(all, probe{url(addr, 8085, "/clientip"), gateways[i].String()})
		}
		must(t, r.askOutside(t.Context(), all...))
	})
	r.kubectl(t, "delete", "pod", "host-port")
	r.becomes(t, func(ctx context.Context) error { return r.askOutside(ctx, probes(failed)...) })
}

// testProbes: the kubelet reaches pods, by HTTP and by TCP, and notices who is not well.
func testProbes(t *testing.T, r *rig) {
	probing := func(name string, port int) fields {
		p := server(name, r.Machines[0])
		c := container(p)
		c["startupProbe"] = fields{"tcpSocket": fields{"port": 8080}, "periodSeconds": 1, "failureThreshold": 60}
		c["livenessProbe"] = fields{"httpGet": fields{"path": "/healthz", "port": port}, "periodSeconds": 1, "failureThreshold": 2}
		c["readinessProbe"] = fields{"tcpSocket": fields{"port": 8080}, "periodSeconds": 1, "failureThreshold": 1}
		return p
	}
	restarts := func(ctx context.Context, name string) (int, error) {
		p, err := r.pod(ctx, name)
		if err != nil || len(p.Status.ContainerStatuses) == 0 {
			return 0, errors.Join(err, fmt.Errorf("pod %s has no container", name))
		}
		return p.Status.ContainerStatuses[0].RestartCount, nil
	}
	begin := time.Now()
	r.run(t, probing("well", 8080))
	t.Logf("ready after %v", since(begin))
	r.make(t, probing("unwell", 8081))
	// Three failures of the one, in a row, are as many probes of the other.
	r.becomes(t, func(ctx context.Context) error {
		n, err := restarts(ctx, "unwell")
		if err == nil && n == 0 {
			err = errors.New("a liveness probe without an answer has no effect")
		}
		return err
	})
	if n, err := restarts(t.Context(), "well"); err != nil || n != 0 {
		t.Errorf("the pod that is well was restarted %d times, %v", n, err)
	}
}
