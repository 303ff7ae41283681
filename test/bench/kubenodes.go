package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/twill-cni/twill/test/kubetest"
)

// kubeNetConf is the network of made-up Nodes, whose subnets are those of peerAddresses; benchSubnet is that of the node under test.
const (
	kubeNetConf = `{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan"}}`
	benchSubnet = "10.200.0.0/24"
	benchNode   = "bench" // as daemonCommand.start says
)

// kubeNodes are Nodes of a real API server.
type kubeNodes struct {
	cluster  *kubetest.Cluster
	registry registry // of which flush and write are used
	encoder  runtime.Encoder
	conf     string // file
	have     int
}

func runKubeNodes(b bench) (err error) {
	if err := settle(); err != nil {
		return err
	}
	ctx := context.Background()
	k := &kubeNodes{conf: "/run/net-conf.json", encoder: protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)}
	if err := os.WriteFile(k.conf, []byte(kubeNetConf), 0o600); err != nil {
		return err
	}
	if k.cluster, err = kubetest.Launch(ctx, kubetest.Options{Addr: netip.MustParseAddr("127.0.0.1"), Timeout: limit}); err != nil {
		return err
	}
	defer k.cluster.Close()
	if k.registry.client, err = clientv3.New(clientv3.Config{Endpoints: []string{k.cluster.EtcdEndpoint()}, DialTimeout: 5 * time.Second}); err != nil {
		return fmt.Errorf("reach the cluster's etcd: %w", err)
	}
	defer k.registry.client.Close()
	// With the default of 5,000, flanneld never starts in a cluster of more: what fills the queue waits for whom it keeps from starting.
	if err := os.Setenv("EVENT_QUEUE_DEPTH", "20000"); err != nil {
		return err
	}
	own := madeUpNode(-1, 0)
	if err := errors.Join(k.put(ctx, own), k.registry.flush(ctx)); err != nil {
		return err
	}
	return b.kubeStarts(ctx, k)
}

func (b bench) kubeTwilld(k *kubeNodes) daemonCommand {
	return daemonCommand{"twilld", []string{b.program("twilld"), "--backend=vxlan", "--datastore=kube", "--kubeconfig=" + k.cluster.Admin(), "--net-conf=" + k.conf,
		"--iface=eth0", "--node-name=" + benchNode, "--subnet-file=/run/twill/subnet.env", "--run-dir=/run/twill", "--cni-conf-dir=/run/cni-conf", "--cni-bin-dir=",
		"--health-address=", "--metrics-address=", "--ip-masq=false", "--log-level=warn"}}
}

func (b bench) kubeFlanneld(k *kubeNodes) daemonCommand {
	return daemonCommand{"flanneld", []string{b.peer("flannel"), "--kube-subnet-mgr", "--kubeconfig-file=" + k.cluster.Admin(), "--net-config-path=" + k.conf,
		"--iface=eth0", "--subnet-file=/run/flannel/subnet.env", "--ip-masq=false"}}
}

// kubeCosts are what a daemon needs for Nodes that are there when it starts, for one that comes, and for one that says that it is still there.
type kubeCosts struct {
	trial
	rest                            int64 // bytes, when it has come to rest
	oneMore, oneMoreCPU, reportsCPU time.Duration
}

func (b bench) kubeStarts(ctx context.Context, k *kubeNodes) error {
	rows := [][]string{{"Nodes", "start", "CPU", "peak memory", "at rest", "one more Node", "its CPU", "CPU of 1,000 reports"}}
	commands := []daemonCommand{b.kubeFlanneld(k), b.kubeTwilld(k)}
	for _, n := range []int{b.scale(1000), b.scale(5000)} {
		costs := make([][]kubeCosts, len(commands))
		for range 3 { // in turns
			for i, command := range commands {
				if err := k.grow(ctx, n); err != nil {
					return err
				}
				c, err := k.costs(ctx, command)
				if err != nil {
					return err
				}
				costs[i] = append(costs[i], c)
			}
		}
		theirs, ours := middleCosts(costs[0]), middleCosts(costs[1])
		for i, c := range []kubeCosts{theirs, ours} {
			rows = append(rows, []string{fmt.Sprintf("%s, %d Nodes", commands[i].name, n), ms(c.wall), ms(c.cpu), mib(c.peak), mib(c.rest), ms(c.oneMore), ms(c.oneMoreCPU), ms(c.reportsCPU)})
		}
		rows = append(rows, []string{"  flanneld / twilld", ratio(theirs.wall, ours.wall), ratio(theirs.cpu, ours.cpu), ratio(theirs.peak, ours.peak),
			ratio(theirs.rest, ours.rest), ratio(theirs.oneMore, ours.oneMore), ratio(theirs.oneMoreCPU, ours.oneMoreCPU), ratio(theirs.reportsCPU, ours.reportsCPU)})
	}
	table(rows...)
	fmt.Printf("a Node has %d bytes as the API server stores it\n", k.size())
	return nil
}

// middleCosts returns the start with the median time, and the medians of the rest.
func middleCosts(all []kubeCosts) kubeCosts {
	var trials []trial
	var oneMore, oneMoreCPU, reports samples
	for _, c := range all {
		trials = append(trials, c.trial)
		oneMore, oneMoreCPU, reports = append(oneMore, c.oneMore), append(oneMoreCPU, c.oneMoreCPU), append(reports, c.reportsCPU)
	}
	m := kubeCosts{trial: middle(trials), oneMore: oneMore.quantile(.5), oneMoreCPU: oneMoreCPU.quantile(.5), reportsCPU: reports.quantile(.5)}
	for _, c := range all {
		if c.trial == m.trial {
			m.rest = c.rest
		}
	}
	return m
}

// costs starts the daemon, has Nodes join one by one, and others report.
func (k *kubeNodes) costs(ctx context.Context, command daemonCommand) (c kubeCosts, err error) {
	o, err := observe()
	if err != nil {
		return c, err
	}
	defer o.close()
	n, start := k.have, time.Now()
	d, err := command.start()
	if err != nil {
		return c, err
	}
	if err := o.wait(n, limit); err != nil {
		return c, d.failed(err)
	}
	wall := time.Since(start)
	before, err := d.rested()
	if err != nil {
		return c, d.failed(err)
	}
	used, err := processUsage(d.cmd.Process.Pid)
	if err != nil {
		return c, err
	}
	c.trial, c.rest = trial{wall, used.cpu, used.peak}, used.rss
	const joiners = 20
	var joins samples
	for i := range joiners {
		start := time.Now()
		if err := errors.Join(k.put(ctx, madeUpNode(n+i, 0)), k.registry.flush(ctx)); err != nil {
			return c, err
		}
		if err := o.wait(n+i+1, limit); err != nil {
			return c, d.failed(err)
		}
		joins = append(joins, time.Since(start))
	}
	after, err := d.rested()
	if err != nil {
		return c, d.failed(err)
	}
	c.oneMore, c.oneMoreCPU = joins.quantile(.5), (after-before)/joiners
	if c.reportsCPU, err = k.reports(ctx, d); err != nil {
		return c, err
	}
	return c, errors.Join(d.stop(), k.leave(ctx, n, joiners))
}

// reports returns the processor time that a daemon uses for 1,000 Nodes whose kubelets say that all is as before, which each does every five minutes.
func (k *kubeNodes) reports(ctx context.Context, d *daemon) (time.Duration, error) {
	before, err := d.rested()
	if err != nil {
		return 0, d.failed(err)
	}
	const reports = 1000
	for i := range reports {
		if err := k.put(ctx, madeUpNode(i%k.have, int(time.Since(madeUpTime)/time.Second))); err != nil {
			return 0, err
		}
	}
	if err := errors.Join(k.registry.flush(ctx), k.served(ctx, "/api/v1/nodes?limit=1")); err != nil {
		return 0, err
	}
	after, err := d.rested()
	return (after - before) * 1000 / reports, err
}

// grow makes the first n of the made-up Nodes exist, and waits until the API server's cache holds them.
func (k *kubeNodes) grow(ctx context.Context, n int) error {
	for ; k.have < n; k.have++ {
		if err := k.put(ctx, madeUpNode(k.have, 0)); err != nil {
			return err
		}
	}
	return errors.Join(k.registry.flush(ctx), k.served(ctx, "/api/v1/nodes/"+madeUpNode(n-1, 0).Name+"?resourceVersion=0"))
}

func (k *kubeNodes) served(ctx context.Context, path string) error {
	for end := time.Now().Add(limit); ; time.Sleep(20 * time.Millisecond) {
		_, err := k.cluster.Do(ctx, kubetest.Request{Path: path})
		if err == nil || !kubetest.IsNotFound(err) || time.Now().After(end) {
			return err
		}
	}
}

// leave removes Nodes.
func (k *kubeNodes) leave(ctx context.Context, first, n int) error {
	var errs []error
	for i := first; i < first+n; i++ {
		_, err := k.registry.client.Delete(ctx, "/registry/minions/"+madeUpNode(i, 0).Name)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (k *kubeNodes) put(ctx context.Context, n *corev1.Node) error {
	value, err := runtime.Encode(k.encoder, n)
	if err != nil {
		return err
	}
	return k.registry.write(ctx, "/registry/minions/"+n.Name, value)
}

func (k *kubeNodes) size() int {
	value, _ := runtime.Encode(k.encoder, madeUpNode(0, 0)) // it could be encoded before
	return len(value)
}

var madeUpTime = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// madeUpNode returns a Node as large as those of a real cluster, which has flannel's annotations; number -1 is the node under test, which has
// none yet. Its kubelet has reported so many seconds after its start.
func madeUpNode(number, seconds int) *corev1.Node {
	n := &corev1.Node{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}}
	n.Name, n.UID, n.CreationTimestamp = fmt.Sprintf("ip-10-%d.eu-central-1.compute.internal", number), types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", number+1)), metav1.NewTime(madeUpTime)
	n.Annotations = map[string]string{"node.alpha.kubernetes.io/ttl": "300", "volumes.kubernetes.io/controller-managed-attach-detach": "true",
		"csi.volume.kubernetes.io/nodeid": fmt.Sprintf(`{"ebs.csi.aws.com":"i-%017d","efs.csi.aws.com":"i-%017d"}`, number, number)}
	n.Labels = map[string]string{}
	for _, name := range []string{"beta.kubernetes.io/arch", "beta.kubernetes.io/instance-type", "beta.kubernetes.io/os", "failure-domain.beta.kubernetes.io/region",
		"failure-domain.beta.kubernetes.io/zone", "kubernetes.io/arch", "kubernetes.io/hostname", "kubernetes.io/os", "node.kubernetes.io/instance-type",
		"topology.kubernetes.io/region", "topology.kubernetes.io/zone", "node-group.example.com/name", "node-group.example.com/generation"} {
		n.Labels[name] = fmt.Sprintf("value-of-%d-%d", number%7, len(name))
	}
	public := netip.MustParseAddr("192.0.2.1")
	n.Spec.PodCIDR = benchSubnet
	if number < 0 {
		n.Name = benchNode
	} else {
		subnet, addr := peerAddresses(number)
		public, n.Spec.PodCIDR = addr, subnet.String()+"/24"
		n.Annotations["flannel.alpha.coreos.com/backend-data"] = fmt.Sprintf(`{"VNI":1,"VtepMAC":"0a:00:00:00:%02x:%02x"}`, byte(number>>8), byte(number))
		n.Annotations["flannel.alpha.coreos.com/backend-type"] = "vxlan"
		n.Annotations["flannel.alpha.coreos.com/kube-subnet-manager"] = "true"
		n.Annotations["flannel.alpha.coreos.com/public-ip"] = public.String()
	}
	n.Spec.PodCIDRs, n.Spec.ProviderID = []string{n.Spec.PodCIDR}, fmt.Sprintf("aws:///eu-central-1a/i-%017d", number)
	n.Status = nodeStatus(number, public, metav1.NewTime(madeUpTime.Add(time.Duration(seconds)*time.Second)))
	for _, manager := range []string{"kubelet", "kube-controller-manager", "flanneld"} {
		n.ManagedFields = append(n.ManagedFields, metav1.ManagedFieldsEntry{Manager: manager, Operation: metav1.ManagedFieldsOperationUpdate, APIVersion: "v1",
			FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1(fmt.Sprintf(`{"f:metadata":{"f:annotations":{"f:%0500d":{}}}}`, number+1))})
	}
	return n
}

// nodeStatus is most of a Node: kubelet names up to 50 images (nodeStatusMaxImages), each by a tag and a digest.
func nodeStatus(number int, addr netip.Addr, now metav1.Time) corev1.NodeStatus {
	s := corev1.NodeStatus{Capacity: corev1.ResourceList{}, Allocatable: corev1.ResourceList{}}
	for name, value := range map[corev1.ResourceName]string{"cpu": "16", "memory": "64Gi", "pods": "110", "ephemeral-storage": "100Gi", "hugepages-1Gi": "0", "hugepages-2Mi": "0"} {
		s.Capacity[name], s.Allocatable[name] = resource.MustParse(value), resource.MustParse(value)
	}
	for _, kind := range []corev1.NodeConditionType{"MemoryPressure", "DiskPressure", "PIDPressure", "Ready", "NetworkUnavailable"} {
		s.Conditions = append(s.Conditions, corev1.NodeCondition{Type: kind, Status: "False", Reason: "KubeletHas" + string(kind), Message: "kubelet has nothing to say of " + string(kind),
			LastHeartbeatTime: now, LastTransitionTime: metav1.NewTime(madeUpTime)})
	}
	s.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: addr.String()}, {Type: corev1.NodeHostName, Address: fmt.Sprintf("ip-10-%d.eu-central-1.compute.internal", number)}}
	s.NodeInfo = corev1.NodeSystemInfo{MachineID: fmt.Sprintf("%032x", number+1), SystemUUID: fmt.Sprintf("%032x", number+1), BootID: fmt.Sprintf("%032x", number+1),
		KernelVersion: "6.12.0-made-up", OSImage: "Made-up Linux 12", ContainerRuntimeVersion: "containerd://2.1.4", KubeletVersion: "v1.37.2", OperatingSystem: "linux", Architecture: "amd64"}
	for i := range 50 {
		name := fmt.Sprintf("registry.example.com/team-%d/application-%d", i%9, i)
		s.Images = append(s.Images, corev1.ContainerImage{SizeBytes: int64(i+1) << 22, Names: []string{fmt.Sprintf("%s@sha256:%064x", name, i+1), fmt.Sprintf("%s:v1.%d.0", name, i)}})
	}
	return s
}
