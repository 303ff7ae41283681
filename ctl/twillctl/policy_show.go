package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/twill-cni/twill/daemon/api"
)

func newPolicyShow(to streams) *cobra.Command {
	var from viewpoints
	output := ""
	cmd := &cobra.Command{
		Use:   "show [NAMESPACE/]POD",
		Short: "list a pod's policies in both directions, and what they leave open to whom",
		Long: `show lists the rules that a pod has, in the order in which they are asked, as the
twilld of its node knows them, with the pods that each rule means at this moment.
Of the tiers Admin and Baseline the first rule that matches counts; of NetworkPolicies
any. What happens to connections that no rule matches is the last line of a direction.`,
		Example: `  twillctl policy show shop/api
  twillctl policy show shop/api --lab demo
  twillctl policy show shop/api -o json | jq '.rules[] | select(.direction == "ingress")'`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: completeFirst(from.podNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			views, err := from.open(cmd.Context())
			if err != nil {
				return err
			}
			shown, err := showPod(cmd.Context(), views, args[0])
			if err != nil {
				return err
			}
			return printAs(to.out, output, shown, func() error { return shown.print(to.out) })
		},
	}
	from.addAll(cmd)
	addFormat(cmd, &output)
	return cmd
}

// shownPod is a pod with its policies.
type shownPod struct {
	api.PolicyPod
	Node string `json:"node"`
	api.PolicyRules
}

func showPod(ctx context.Context, from []viewpoint, arg string) (*shownPod, error) {
	name, err := podArg(arg)
	if err != nil {
		return nil, err
	}
	pod, err := find(ctx, from, name)
	if err != nil {
		return nil, err
	}
	for _, v := range from {
		all, err := v.client.PolicyPods(ctx)
		if err != nil {
			if v.node == "" || v.node == pod.Node {
				return nil, err
			}
			continue
		}
		for _, p := range all {
			if p.Namespace != name.Namespace || p.Name != name.Name {
				continue
			}
			rules, err := v.client.PolicyRules(ctx, name)
			if err != nil {
				return nil, err
			}
			return &shownPod{PolicyPod: p, Node: pod.Node, PolicyRules: rules}, nil
		}
	}
	return nil, fmt.Errorf("pod %s is on node %s: ask there", name, pod.Node)
}

func (p *shownPod) print(w io.Writer) error {
	state := "enforced"
	if !p.Enforced {
		state = "closed: its labels are not known yet, or another pod has its address"
	}
	if _, err := fmt.Fprintf(w, "Pod %s on %s (%s): %s\n", p.Pod, p.Node, joinAddrs(p.Addresses), state); err != nil {
		return err
	}
	for _, d := range []struct {
		name, peers         string
		policies, isolating []string
	}{{"egress", "TO", p.Egress, p.IsolatedEgress}, {"ingress", "FROM", p.Ingress, p.IsolatedIngress}} {
		if _, err := fmt.Fprintf(w, "\n%s: %s\n", d.name, policyList(d.policies)); err != nil {
			return err
		}
		if len(d.policies) == 0 {
			continue
		}
		if err := p.printRules(w, d.name, d.peers, d.isolating); err != nil {
			return err
		}
	}
	return nil
}

func policyList(names []string) string {
	if len(names) == 0 {
		return "no policy has a say, everything is open"
	}
	return strings.Join(names, ", ")
}

// printRules prints the rules of one direction.
func (p *shownPod) printRules(w io.Writer, direction, peers string, isolating []string) error {
	return printTable(w, func(row func(cells ...any)) {
		row("TIER", "POLICY", "RULE", "ACTION", peers, "PORTS", "PODS NOW")
		end := func() {
			if len(isolating) > 0 {
				row("NetworkPolicy", strings.Join(isolating, ", "), "-", "Deny", "everybody else", "all", "-")
			}
		}
		ended := false
		for _, r := range p.Rules {
			if r.Direction != direction {
				continue
			}
			if r.Tier == "Baseline" && !ended {
				end()
				ended = true
			}
			row(r.Tier, r.Policy, ruleName(r), r.Action, orWord(r.Peers, "everybody", "; "), orWord(r.Ports, "all", ", "), podsText(r))
		}
		if !ended {
			end()
		}
		if len(isolating) == 0 {
			row("-", "-", "-", "Accept", "everybody else", "all", "-")
		}
	})
}

func ruleName(r api.PolicyRule) string {
	if r.Name == "" {
		return fmt.Sprint(r.Rule)
	}
	return fmt.Sprintf("%d (%s)", r.Rule, r.Name)
}

func orWord(all []string, none, separator string) string {
	if len(all) == 0 {
		return none
	}
	return strings.Join(all, separator)
}

// podsText names a few of the pods that a rule means.
func podsText(r api.PolicyRule) string {
	const few = 3
	shown := r.Pods[:min(len(r.Pods), few)]
	text := dash(strings.Join(shown, ", "))
	if more := len(r.Pods) - len(shown) + r.MorePods; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}
