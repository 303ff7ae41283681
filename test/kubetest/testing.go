package kubetest

import "testing"

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

// StartSite starts a site, as LaunchSite does, for a test: it ends with it, and the logs are printed when the test failed.
func StartSite(t testing.TB, options SiteOptions) *Site {
	t.Helper()
	s, err := LaunchSite(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of kube-apiserver:\n%s\nlogs of its controllers:\n%s", s.Cluster.Log(), s.Cluster.ControllersLog())
			for _, m := range s.Machines {
				t.Logf("logs of %s:\n%s", m.Name(), m.Log())
			}
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}
