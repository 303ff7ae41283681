package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/ctl/lab"
	"github.com/twill-cni/twill/plugins/netconf"
)

func newLabAttach(to streams) *cobra.Command {
	options := lab.Options{}
	var pod lab.PodOptions
	var labels, ports []string
	cmd := &cobra.Command{
		Use:   "attach NODE",
		Short: "attach one more pod to a node, with labels and named ports",
		Long: `attach makes a network namespace and attaches it to the node with the CNI's ADD. The
labels are what Services and policies select pods by, and a port's name is what their
ports may say instead of a number; see "twillctl apply".`,
		Example: `  twillctl lab attach node1
  twillctl lab attach node1 --pod web-1 --label app=web --label tier=front --port http=8080
  twillctl lab attach node2 --pod dns --port dns=53 --port dns=53/UDP`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if pod.Labels, err = parseLabels(labels); err != nil {
				return err
			}
			if pod.Ports, err = parsePorts(ports); err != nil {
				return err
			}
			l, err := lab.Open(options)
			if err != nil {
				return err
			}
			node, err := l.Node(args[0])
			if err != nil {
				return err
			}
			p, err := node.AddPod(cmd.Context(), pod)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(to.out, "pod %s attached to %s (%s)\n", p.Name, node.Name, joinAddrs(p.Addrs()))
			return err
		},
	}
	addName(cmd, &options)
	cmd.Flags().StringVar(&pod.Name, "pod", "", "the pod's name (default NODE-podN)")
	cmd.Flags().StringVarP(&pod.Namespace, "namespace", "n", "default", "the Kubernetes namespace that the pod says to be in")
	cmd.Flags().StringArrayVarP(&labels, "label", "l", nil, "KEY=VALUE (repeatable)")
	cmd.Flags().StringArrayVar(&ports, "port", nil, "NAME=NUMBER or NAME=NUMBER/UDP (repeatable): a port that has a name")
	return cmd
}

func parseLabels(texts []string) (map[string]string, error) {
	labels := map[string]string{}
	for _, text := range texts {
		key, value, ok := strings.Cut(text, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--label %q: want KEY=VALUE", text)
		}
		labels[key] = value
	}
	return labels, nil
}

// parsePorts reads ports that have names. Whether the names are possible ones the plugin says.
func parsePorts(texts []string) ([]netconf.PodPort, error) {
	var ports []netconf.PodPort
	for _, text := range texts {
		name, rest, ok := strings.Cut(text, "=")
		number, protocol, given := strings.Cut(rest, "/")
		port, err := strconv.ParseUint(number, 10, 16)
		p := netconf.PodPort{Name: name, ContainerPort: uint16(port), Protocol: netconf.TCP}
		if given && err == nil {
			err = p.Protocol.UnmarshalText([]byte(protocol))
		}
		if !ok || name == "" || port == 0 || err != nil {
			return nil, fmt.Errorf("--port %q: want NAME=NUMBER, or NAME=NUMBER/PROTOCOL with TCP, UDP or SCTP", text)
		}
		ports = append(ports, p)
	}
	return ports, nil
}

func newLabDetach(to streams) *cobra.Command {
	options := lab.Options{}
	cmd := &cobra.Command{
		Use:     "detach POD",
		Short:   "detach a pod with the CNI's DEL and remove it",
		Example: `  twillctl lab detach web-1`,
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := lab.Open(options)
			if err != nil {
				return err
			}
			for _, p := range l.Pods() {
				if p.Name != args[0] {
					continue
				}
				if err := p.Delete(cmd.Context()); err != nil {
					return err
				}
				_, err := fmt.Fprintf(to.out, "pod %s detached from %s\n", p.Name, p.Node.Name)
				return err
			}
			return fmt.Errorf("lab %s has no pod %q", l.Name(), args[0])
		},
	}
	addName(cmd, &options)
	return cmd
}
