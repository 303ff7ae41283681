package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"

	"github.com/twill-cni/twill/proxy/service"
	"github.com/twill-cni/twill/store"
	"github.com/twill-cni/twill/store/etcd"
	"github.com/twill-cni/twill/store/manifest"
)

func newApply(to streams) *cobra.Command {
	flags := &datastoreFlags{}
	var files []string
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "store Services, endpoints and policies in etcd, from Kubernetes manifests",
		Long: `apply stores Services, EndpointSlices, Endpoints, NetworkPolicies,
ClusterNetworkPolicies and Namespaces for a cluster without Kubernetes. A file may hold
several documents, in YAML or JSON; when one of them has a mistake, none is stored. Each
document is stored as a whole or not at all. A Service is given the addresses and node
ports that it lacks, and keeps those that it has. A Namespace is needed only for labels
by which policies select it.`,
		Example: `  twillctl apply -f web.yaml --etcd-endpoints http://192.0.2.1:2379
  twillctl apply -f web.yaml --lab demo
  kubectl get service web -o yaml | twillctl apply -f - --lab demo`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "file with manifests, - for standard input (repeatable)")
	_ = cmd.MarkFlagRequired("filename") // it is there
	flags.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		documents, err := readManifests(cmd.InOrStdin(), files)
		if err != nil {
			return err
		}
		return flags.with(func(s *etcd.Store) error {
			var failed []error
			for _, d := range documents {
				outcome, svc, err := s.Apply(cmd.Context(), d)
				if err != nil {
					failed = append(failed, err)
					continue
				}
				fmt.Fprintf(to.out, "%s %s%s\n", manifest.Title(d.Kind, d.Name), outcome, given(svc))
			}
			return errors.Join(failed...)
		})
	}
	return cmd
}

// readManifests reads all files before anything is done.
func readManifests(stdin io.Reader, files []string) ([]manifest.Document, error) {
	var all []manifest.Document
	for _, file := range files {
		var data []byte
		var err error
		if file == "-" {
			data, err = io.ReadAll(io.LimitReader(stdin, manifest.MaxFileSize+1))
		} else {
			data, err = os.ReadFile(file)
		}
		if err != nil {
			return nil, fmt.Errorf("read manifests: %w", err)
		}
		documents, err := manifest.Parse(data)
		if err != nil {
			return nil, fmt.Errorf("%s has mistakes, nothing was done:\n%w", file, err)
		}
		if len(documents) == 0 {
			return nil, fmt.Errorf("%s holds no manifest", file)
		}
		for _, d := range documents {
			if err := checkScheduler(d); err != nil {
				return nil, fmt.Errorf("%s has mistakes, nothing was done:\n%w", file, err)
			}
		}
		all = append(all, documents...)
	}
	return all, nil
}

// checkScheduler refuses a name that nodes would not know, and would warn of in their logs alone.
func checkScheduler(d manifest.Document) error {
	if d.Service == nil {
		return nil
	}
	name := d.Service.Annotations[manifest.SchedulerAnnotation]
	if name == "" || slices.Contains(service.Schedulers(), service.Scheduler(name)) {
		return nil
	}
	return fmt.Errorf("service %s: metadata.annotations[%s]: %q: want one of %v", d.Name, manifest.SchedulerAnnotation, name, service.Schedulers())
}

// given says what a Service has of the ranges, as " (clusterIP 10.96.0.5, nodePort 80:30080)".
func given(svc *corev1.Service) string {
	if svc == nil {
		return ""
	}
	var parts []string
	if len(svc.Spec.ClusterIPs) > 0 {
		parts = append(parts, "clusterIP "+strings.Join(svc.Spec.ClusterIPs, ","))
	}
	for _, p := range svc.Spec.Ports {
		if p.NodePort != 0 {
			parts = append(parts, fmt.Sprintf("nodePort %d:%d/%s", p.Port, p.NodePort, p.Protocol))
		}
	}
	if svc.Spec.HealthCheckNodePort != 0 {
		parts = append(parts, fmt.Sprintf("healthCheckNodePort %d", svc.Spec.HealthCheckNodePort))
	}
	if len(parts) == 0 {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

func newDelete(to streams) *cobra.Command {
	flags := &datastoreFlags{}
	var files []string
	namespace := ""
	cmd := &cobra.Command{
		Use:   "delete -f FILE | delete TYPE NAME...",
		Short: "remove Services, endpoints and policies from etcd",
		Long: `delete removes what a file names, or objects by name, and frees a Service's addresses
and ports. The EndpointSlices of a Service without a selector stay: delete them, too.
With a Namespace go its labels, and nothing that is in it.`,
		Example: `  twillctl delete -f web.yaml --lab demo
  twillctl delete service web api -n shop --lab demo
  twillctl delete endpoints db --lab demo
  twillctl delete networkpolicy deny-all -n shop --lab demo`,
		ValidArgs: []string{"service", "endpointslice", "endpoints", "networkpolicy", "clusternetworkpolicy", "namespace"},
	}
	cmd.Flags().StringArrayVarP(&files, "filename", "f", nil, "file with manifests, - for standard input (repeatable)")
	cmd.Flags().StringVarP(&namespace, "namespace", "n", manifest.DefaultNamespace, "namespace of the names")
	flags.add(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		targets, err := toDelete(cmd.InOrStdin(), files, namespace, args)
		if err != nil {
			return err
		}
		return flags.with(func(s *etcd.Store) error {
			var failed []error
			for _, t := range targets {
				if err := s.Delete(cmd.Context(), t.kind, t.name); err != nil {
					failed = append(failed, err)
					continue
				}
				fmt.Fprintf(to.out, "%s deleted\n", manifest.Title(t.kind, t.name))
			}
			return errors.Join(failed...)
		})
	}
	return cmd
}

// target is an object that is to be deleted.
type target struct {
	kind string
	name store.ObjectName
}

func toDelete(stdin io.Reader, files []string, namespace string, args []string) ([]target, error) {
	var targets []target
	if len(files) > 0 {
		if len(args) > 0 {
			return nil, errors.New("give files, or a type and names, not both")
		}
		documents, err := readManifests(stdin, files)
		for _, d := range documents {
			targets = append(targets, target{d.Kind, d.Name})
		}
		return targets, err
	}
	if len(args) < 2 {
		return nil, errors.New("want -f FILE, or a type and a name: twillctl delete service web")
	}
	kind, ok := kinds[strings.ToLower(args[0])]
	if !ok || kind == kindPod {
		return nil, fmt.Errorf("type %q cannot be deleted: want service, endpointslice, endpoints, networkpolicy, clusternetworkpolicy or namespace", args[0])
	}
	if manifest.ClusterScoped(kind) {
		namespace = ""
	}
	for _, name := range args[1:] {
		targets = append(targets, target{kind, store.ObjectName{Namespace: namespace, Name: name}})
	}
	return targets, nil
}
