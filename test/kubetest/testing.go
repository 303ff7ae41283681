package kubetest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Start starts a cluster, as Launch does, for a test: it ends with it, and kube-apiserver's log is printed when the test failed.
func Start(t testing.TB, options Options) *Cluster {
	t.Helper()
	c, err := Launch(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of kube-apiserver:\n%s", c.Log())
		}
		c.Close()
	})
	return c
}

// StartKubeProxy starts a kube-proxy, as Cluster.LaunchKubeProxy does, for a test: it ends with it, and its log is printed when the test
// failed.
func StartKubeProxy(t testing.TB, c *Cluster, options ProxyOptions) *KubeProxy {
	t.Helper()
	p, err := c.LaunchKubeProxy(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the kube-proxy of %s:\n%s", options.Node, p.Log())
		}
		p.Kill()
	})
	return p
}

// StartSite starts a site, as LaunchSite does, for a test: it ends with it. When the test failed, the ends of the logs are printed, and if
// TWILL_LOGS names a directory, whole logs are copied there, those of Pods among them.
func StartSite(t testing.TB, options SiteOptions) *Site {
	t.Helper()
	s, err := LaunchSite(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			s.explain(t)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// StartUnderlay makes an underlay, as NewUnderlay does, for a test: it ends with it.
func StartUnderlay(t testing.TB) *Underlay {
	t.Helper()
	u, err := NewUnderlay()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	return u
}

// StartMachine starts a machine, as LaunchMachine does, for a test: it ends with it. Without an underlay, it gets one of its own.
func StartMachine(t testing.TB, options MachineOptions) *Machine {
	t.Helper()
	if options.Underlay == nil {
		options.Underlay = StartUnderlay(t)
	}
	m, err := LaunchMachine(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func (s *Site) explain(t testing.TB) {
	t.Helper()
	t.Logf("log of kube-apiserver:\n%s\nlogs of its controllers:\n%s", s.Cluster.Log(), s.Cluster.ControllersLog())
	for _, m := range s.Machines {
		t.Logf("logs of %s:\n%s", m.Name(), m.Log())
	}
	if dir := os.Getenv("TWILL_LOGS"); dir != "" {
		dir = filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "-"))
		t.Logf("whole logs are in %s: %v", dir, s.saveLogs(dir))
	}
}

// saveLogs copies the logs of all processes, and those of Pods, to a directory.
func (s *Site) saveLogs(dir string) error {
	err := os.MkdirAll(dir, 0o755)
	save := func(prefix string, processes ...*process) {
		for _, p := range processes {
			if p != nil {
				err = errors.Join(err, copyTree(p.log, filepath.Join(dir, prefix+filepath.Base(p.log)), copyFile))
			}
		}
	}
	save("", s.Cluster.etcd, s.Cluster.server, s.Cluster.controllers, s.Cluster.scheduler)
	for _, m := range s.Machines {
		save(m.Name()+"-", m.containerd, m.kubelet)
		err = errors.Join(err, copyTree(filepath.Join(m.dir, "root/var/log/pods"), filepath.Join(dir, m.Name()+"-pods"), copyFile))
	}
	return err
}
