package main

import (
	"bytes"
	"context"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/etcd"
	"github.com/twill-cni/twill/store/manifest"
)

// startEtcd starts an etcd with a pod network and returns its endpoint.
func startEtcd(t *testing.T) string {
	t.Helper()
	any := []url.URL{{Scheme: "http", Host: "127.0.0.1:0"}}
	cfg := embed.NewConfig()
	cfg.Dir, cfg.Name, cfg.UnsafeNoFsync = t.TempDir(), "test", true
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls, cfg.ListenClientUrls, cfg.AdvertiseClientUrls = any, any, any, any
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.TickMs, cfg.ElectionMs = 10, 100
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	<-server.Server.ReadyNotify()
	endpoint := "http://" + server.Clients[0].Addr().String()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := client.Put(ctx, etcd.DefaultPrefix+"/config", `{"Network":"10.244.0.0/16"}`); err != nil {
		t.Fatal(err)
	}
	pod := &store.Pod{Name: store.ObjectName{Namespace: "default", Name: "web-1"}, Node: "n1", Labels: map[string]string{"app": "web"},
		Addrs: []netip.Addr{netip.MustParseAddr("10.244.1.5")}, Ready: true, Ports: []store.PodPort{{Name: "http", Protocol: store.TCP, Port: 8080}}}
	value, err := pod.Value()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.Put(ctx, etcd.DefaultPrefix+"/registry/pods/n1/default/web-1", string(value)); err != nil {
		t.Fatal(err)
	}
	return endpoint
}

const manifests = `apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}], clusterIP: 10.96.0.5}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {ports: [{port: 5432}], clusterIP: 10.96.0.6}
---
apiVersion: v1
kind: Endpoints
metadata: {name: db, namespace: shop}
subsets: [{addresses: [{ip: 192.0.2.1}], notReadyAddresses: [{ip: 192.0.2.2}], ports: [{port: 5432}]}]
`

func TestServiceCommands(t *testing.T) {
	endpoint := startEtcd(t)
	dir := t.TempDir()
	file := writeFile(t, dir, "all.yaml", manifests)
	bad := writeFile(t, dir, "bad.yaml", strings.ReplaceAll(manifests, "targetPort", "targtPort"))
	wrong := writeFile(t, dir, "scheduler.yaml", strings.Replace(manifests, "{name: web}", "{name: web, annotations: {twill-cni.github.io/scheduler: best}}", 1))
	taken := writeFile(t, dir, "taken.yaml", "{apiVersion: v1, kind: Service, metadata: {name: other}, spec: {clusterIP: 10.96.0.5, ports: [{port: 1}]}}\n---\n"+
		"{apiVersion: v1, kind: Service, metadata: {name: fine}, spec: {clusterIP: None, selector: {a: b}}}")
	steps := []objectStep{
		{"a mistake stores nothing", "apply -f " + bad, 1, `document 1, line 4: spec.ports[0].targtPort: unknown field; did you mean "targetPort"?`},
		{"a scheduler that is none", "apply -f " + wrong, 1, `service default/web: metadata.annotations[twill-cni.github.io/scheduler]: "best": want one of [random rr wrr`},
		{"nothing is there", "get services -A", 0, `NAMESPACE +NAME .*\n`},
		{"apply", "apply -f " + file, 0, `service default/web created \(clusterIP 10.96.0.5, nodePort 80:30080/TCP\)
service shop/db created \(clusterIP 10.96.0.6\)
endpoints shop/db created
`},
		{"apply again", "apply -f " + file, 0, `service default/web unchanged .*\nservice shop/db unchanged .*\nendpoints shop/db unchanged\n`},
		{"a conflict", "apply -f " + taken, 1, "service default/other: spec.clusterIPs[0]: 10.96.0.5 is already that of service default/web"},
		{"services", "get svc", 0, `NAME +TYPE +CLUSTER-IP +EXTERNAL-IP +PORT\(S\) +ENDPOINTS +AGE
fine +ClusterIP +None +- +- +0/0 +\d+s
web +NodePort +10.96.0.5 +- +80:30080/TCP +1/1 +\d+s
`},
		{"a service, wide", "get service db -n shop -o wide", 0, `NAME.*SELECTOR\ndb +ClusterIP +10.96.0.6 +- +5432/TCP +1/2 +\d+s +-\n`},
		{"a service, YAML", "get service web -o yaml", 0, `(?s)apiVersion: v1\nkind: Service\n.*clusterIP: 10.96.0.5.*`},
		{"services, JSON", "get services -A -o json", 0, `(?s){\n  "apiVersion": "v1",\n  "items": \[.*"kind": "List".*`},
		{"slices", "get endpointslices -A", 0, `NAMESPACE +NAME +SERVICE +SOURCE +PORTS +ENDPOINTS
shop +db-ipv4-0-0 +db +manifest +5432/TCP +192.0.2.1,192.0.2.2\(not ready\)
default +web:n1:IPv4 +web +selector +8080/TCP +10.244.1.5
`},
		{"pods", "get pods -o wide", 0, `NAME +NODE +READY +ADDRESSES +PORTS +LABELS\nweb-1 +n1 +true +10.244.1.5 +http:8080/TCP +app=web\n`},
		{"no such service", "get service nothing", 1, "service default/nothing: not found"},
		{"no such type", "get nodes", 1, `type "nodes": want services`},
		{"no such format", "get pods -o xml", 1, `--output "xml"`},
		{"delete by name", "delete service fine", 0, "service default/fine deleted\n"},
		{"delete nothing", "delete service fine", 1, "service default/fine: not found"},
		{"delete what cannot be", "delete pod web-1", 1, `type "pod" cannot be deleted`},
		{"delete without a name", "delete service", 1, "want -f FILE, or a type and a name"},
		{"delete a file", "delete -f " + file, 0, "service default/web deleted\nservice shop/db deleted\nendpoints shop/db deleted\n"},
		{"no file", "apply -f " + dir + "/nothing", 1, "no such file"},
		{"no flag", "apply", 1, `required flag(s) "filename"`},
		{"no lab", "get pods --lab nolab --state-dir " + dir, 1, "not found"},
	}
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) {
			if strings.Contains(step.args, "--lab") {
				step.run(t)
			} else {
				step.run(t, "--etcd-endpoints", endpoint)
			}
		})
	}
}

// What "get -o yaml" prints can be applied again, and changes nothing.
func TestGetAndApply(t *testing.T) {
	t.Setenv("TWILLD_ETCD_ENDPOINTS", startEtcd(t))
	line := func(stdin string, args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		root := newRoot(streams{out: &out, err: &errs})
		root.SetArgs(args)
		root.SetIn(strings.NewReader(stdin))
		if err := root.ExecuteContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	line(manifests, "apply", "-f", "-")
	text := line("", "get", "services", "-A", "-o", "yaml")
	if documents, err := manifest.Parse([]byte(text)); err != nil || len(documents) != 2 {
		t.Fatalf("%v\n%s", err, text)
	}
	if have := line(text, "apply", "-f", "-"); strings.Count(have, "unchanged") != 2 {
		t.Errorf("have %s", have)
	}
}

func TestWhereIsEtcd(t *testing.T) {
	t.Setenv("TWILLD_ETCD_ENDPOINTS", "")
	code, _, stderr := runLine(t, "get", "pods")
	if code != 1 || !strings.Contains(stderr, "--lab NAME") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}
