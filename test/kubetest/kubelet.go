package kubetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"

	"sigs.k8s.io/yaml"
)

const (
	kubeletDir  = "/var/lib/kubelet"
	kubeletPort = 10248 // of /healthz
)

// Join gives the machine a cluster and starts kubelet, which registers the Node.
func (m *Machine) Join(ctx context.Context, c *Cluster) error {
	err := m.identify(c)
	if err == nil {
		err = m.StartKubelet(ctx)
	}
	if err != nil {
		return fmt.Errorf("join %s: %w", m.options.Name, err)
	}
	return nil
}

// identify writes what kubelet needs to know of the cluster.
func (m *Machine) identify(c *Cluster) error {
	file, err := c.Kubeconfig("system:node:"+m.options.Name, "system:nodes")
	if err != nil {
		return err
	}
	kubeconfig, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	config, err := m.kubeletConfig(c)
	if err != nil {
		return err
	}
	return errors.Join(m.Write(filepath.Join(kubeletDir, "kubeconfig"), string(kubeconfig)), m.Write(filepath.Join(kubeletDir, "config.yaml"), config),
		m.Write("/etc/kubernetes/pki/ca.crt", string(c.ca.pem)))
}

func (m *Machine) kubeletConfig(c *Cluster) (string, error) {
	type fields = map[string]any
	config := fields{
		"apiVersion":                  "kubelet.config.k8s.io/v1beta1",
		"kind":                        "KubeletConfiguration",
		"containerRuntimeEndpoint":    "unix://" + containerdSocket,
		"authentication":              fields{"anonymous": fields{"enabled": false}, "x509": fields{"clientCAFile": "/etc/kubernetes/pki/ca.crt"}},
		"clusterDNS":                  []string{c.DNSAddr().String()},
		"clusterDomain":               ClusterDomain,
		"resolvConf":                  "/etc/resolv.conf",
		"volumePluginDir":             filepath.Join(kubeletDir, "volumeplugins"), // the default is below /usr
		"serializeImagePulls":         false,
		"failSwapOn":                  false,
		"failCgroupV1":                false,
		"cgroupDriver":                "cgroupfs",
		"cgroupsPerQOS":               false,
		"enforceNodeAllocatable":      []string{},
		"oomScoreAdj":                 0,
		"maxPods":                     250,
		"imageGCHighThresholdPercent": 100, // of the disk, which is not the machine's alone
		"imageMinimumGCAge":           "24h",
		"evictionHard":                fields{"memory.available": "0%", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%", "imagefs.inodesFree": "0%"},
		"nodeStatusUpdateFrequency":   "2s",
		"shutdownGracePeriod":         "0s",
		"registryPullQPS":             0,
		"eventRecordQPS":              0,
		"kubeAPIQPS":                  100,
		"kubeAPIBurst":                200,
	}
	var more fields
	if err := yaml.Unmarshal([]byte(m.options.Kubelet), &more); err != nil {
		return "", fmt.Errorf("read kubelet's configuration: %w", err)
	}
	maps.Copy(config, more)
	text, err := json.Marshal(config) // which is YAML
	return string(text), err
}

// StartKubelet starts kubelet, after KillKubelet or Boot of a machine that has joined a cluster, and waits until it is healthy. The Node may
// still be NotReady: see Cluster.AwaitReady.
func (m *Machine) StartKubelet(ctx context.Context) error {
	m.KillKubelet()
	first, second := m.host.Addrs[0], m.host.Addrs[1]
	if m.options.IPv6 {
		first, second = second, first
	}
	var err error
	m.kubelet, err = m.program("kubelet", "--config="+filepath.Join(kubeletDir, "config.yaml"), "--kubeconfig="+filepath.Join(kubeletDir, "kubeconfig"),
		"--root-dir="+kubeletDir, "--cert-dir="+filepath.Join(kubeletDir, "pki"), "--hostname-override="+m.options.Name,
		fmt.Sprintf("--node-ip=%v,%v", first, second)).start()
	if err == nil {
		err = m.kubelet.await(ctx, m.options.Timeout, m.kubeletHealthy)
	}
	if err != nil {
		return fmt.Errorf("start kubelet on %s: %w", m.options.Name, err)
	}
	return nil
}

// KillKubelet ends kubelet at once and waits until its process is gone. Pods go on.
func (m *Machine) KillKubelet() { m.kubelet.kill() }

func (m *Machine) kubeletHealthy(ctx context.Context) error {
	t := transport(m.Namespace())
	t.DisableKeepAlives = true
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/healthz", kubeletPort), nil)
	if err != nil {
		return err
	}
	answer, err := (&http.Client{Transport: t}).Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New(answer.Status)
	}
	return nil
}
