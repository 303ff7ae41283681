package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/twill-cni/twill/test/kubetest"
)

// launch starts a cluster that has no network for Pods.
func launch(ctx context.Context, o options) (*kubetest.Site, error) {
	return kubetest.LaunchSite(ctx, kubetest.SiteOptions{
		Machines: o.machines,
		Cluster:  kubetest.Options{Programs: o.programs},
		Images:   images(o.programs),
		Archives: []string{o.image},
		// containerd runs it for each Pod. On other machines it comes with the package kubernetes-cni.
		Prepare: func(m *kubetest.Machine) error { return m.Install("/opt/cni/bin", filepath.Join(o.peers, "loopback")) },
	})
}

// install installs Twill and CoreDNS and returns when all of both is ready.
func install(ctx context.Context, s *kubetest.Site, manifests []string) error {
	server := strings.TrimPrefix(s.Cluster.URL(), "https://")
	steps := [][]string{
		// There is no kube-proxy that would serve the Service "kubernetes".
		{"-n", "kube-system", "create", "configmap", "twill-api-server", "--from-literal=address=" + server},
		append([]string{"apply"}, manifests...),
		{"-n", "kube-system", "rollout", "status", "daemonset/twill", "--timeout=3m"},
	}
	for i, m := range s.Machines {
		// Tests of topology hints and of traffic distribution ask for it.
		steps = append(steps, []string{"label", "node", m.Name(), fmt.Sprintf("topology.kubernetes.io/zone=zone-%d", i+1)})
	}
	for _, step := range steps {
		if _, err := s.Cluster.Kubectl(ctx, step...); err != nil {
			return fmt.Errorf("install Twill: %w%s", err, pods(ctx, s))
		}
	}
	for _, m := range s.Machines {
		if err := s.Cluster.AwaitReady(ctx, m.Name()); err != nil {
			return fmt.Errorf("install Twill: %w%s", err, pods(ctx, s))
		}
	}
	if err := s.RoutePods(ctx); err != nil {
		return err
	}
	if err := s.Cluster.InstallDNS(ctx); err != nil {
		return err
	}
	if _, err := s.Cluster.Kubectl(ctx, "-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=3m"); err != nil {
		return fmt.Errorf("install DNS: %w%s", err, pods(ctx, s))
	}
	return nil
}

// pods returns what an error should say about the Pods that do not come up.
func pods(ctx context.Context, s *kubetest.Site) string {
	out, err := s.Cluster.Kubectl(ctx, "-n", "kube-system", "describe", "pods")
	if err != nil {
		return ""
	}
	return "\n" + out
}

// version returns that of the API server, or why it is unknown.
func version(ctx context.Context, s *kubetest.Site) string {
	var v struct{ GitVersion string }
	body, err := s.Cluster.Do(ctx, kubetest.Request{Path: "/version"})
	if err == nil {
		err = json.Unmarshal(body, &v)
	}
	if err != nil {
		return err.Error()
	}
	return v.GitVersion
}

// keepLogs writes what explains a failure and goes away with the cluster.
func keepLogs(s *kubetest.Site, dir string) error {
	// The tests' context may have ended.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var errs []error
	keep := func(name, text string) {
		errs = append(errs, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	for name, args := range map[string][]string{
		"twilld.log":  {"-n", "kube-system", "logs", "-l", "app.kubernetes.io/name=twill", "--all-containers", "--prefix", "--tail=-1", "--max-log-requests=20"},
		"coredns.log": {"-n", "kube-system", "logs", "-l", "k8s-app=kube-dns", "--prefix", "--tail=-1"},
		"pods.txt":    {"get", "pods", "-A", "-o", "wide"},
		"events.txt":  {"get", "events", "-n", "kube-system"},
	} {
		out, err := s.Cluster.Kubectl(ctx, args...)
		if err != nil {
			out += err.Error() + "\n"
		}
		keep(name, out)
	}
	for _, m := range s.Machines {
		keep(m.Name()+".log", m.Log())
		rules, err := m.Run(ctx, "nft", "list", "ruleset")
		if err != nil {
			rules += err.Error() + "\n"
		}
		keep(m.Name()+".nft", rules)
	}
	return errors.Join(errs...)
}
