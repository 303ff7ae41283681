package policytest

import (
	"slices"

	"github.com/twill-cni/twill/store"
)

// Change changes one thing in the cluster, and returns the change as a source would tell it: something comes, goes, or is not as it was.
func (c *Cluster) Change() store.PolicyChanges {
	changes := newChanges()
	switch c.rand.IntN(8) {
	case 0, 1, 2:
		c.changePod(changes)
	case 3:
		c.addPod(changes)
	case 4:
		c.removePod(changes)
	case 5:
		i := c.rand.IntN(len(c.Namespaces))
		c.Namespaces[i] = c.namespace(c.Namespaces[i].Name)
		changes.Namespaces[c.Namespaces[i].Name] = c.Namespaces[i]
	case 6:
		c.changePolicy(changes)
	case 7:
		c.changeClusterPolicy(changes)
	}
	return changes
}

// ChangePolicy makes one change to the policies.
func (c *Cluster) ChangePolicy() store.PolicyChanges {
	changes := newChanges()
	if c.rand.IntN(2) == 0 {
		c.changePolicy(changes)
	} else {
		c.changeClusterPolicy(changes)
	}
	return changes
}

// changePod gives a pod other labels or its address; its ports stay as they are, as in the API.
func (c *Cluster) changePod(changes store.PolicyChanges) {
	if len(c.Pods) == 0 {
		return
	}
	i := c.rand.IntN(len(c.Pods))
	pod := *c.Pods[i]
	if len(pod.Addrs) == 0 {
		node := slices.IndexFunc(c.size.Nodes, func(n Node) bool { return n.Name == pod.Node })
		pod.Addrs = c.addresses(c.size.Nodes[node])
	} else {
		pod.Labels = c.labels()
	}
	c.Pods[i] = &pod
	changes.Pods[pod.Key()] = &pod
}

func (c *Cluster) addPod(changes store.PolicyChanges) {
	pod := c.newPod()
	c.Pods = append(c.Pods, pod)
	changes.Pods[pod.Key()] = pod
}

func (c *Cluster) removePod(changes store.PolicyChanges) {
	if len(c.Pods) == 0 {
		return
	}
	i := c.rand.IntN(len(c.Pods))
	changes.Pods[c.Pods[i].Key()] = nil
	c.Pods = slices.Delete(c.Pods, i, i+1)
}

func (c *Cluster) changePolicy(changes store.PolicyChanges) {
	if len(c.Policies) < c.size.Policies || len(c.Policies) == 0 {
		p := c.policy(store.ObjectName{Namespace: pick(c.rand, c.Namespaces).Name, Name: c.name("policy")})
		c.Policies = append(c.Policies, p)
		changes.Policies[p.Name] = p
		return
	}
	i := c.rand.IntN(len(c.Policies))
	name := c.Policies[i].Name
	if c.chance(0.5) {
		c.Policies = slices.Delete(c.Policies, i, i+1)
		changes.Policies[name] = nil
		return
	}
	c.Policies[i] = c.policy(name)
	changes.Policies[name] = c.Policies[i]
}

func (c *Cluster) changeClusterPolicy(changes store.PolicyChanges) {
	if len(c.ClusterPolicies) < c.size.ClusterPolicies || len(c.ClusterPolicies) == 0 {
		p := c.clusterPolicy(c.name("cluster"))
		c.ClusterPolicies = append(c.ClusterPolicies, p)
		changes.ClusterPolicies[p.Name] = p
		return
	}
	i := c.rand.IntN(len(c.ClusterPolicies))
	name := c.ClusterPolicies[i].Name
	if c.chance(0.5) {
		c.ClusterPolicies = slices.Delete(c.ClusterPolicies, i, i+1)
		changes.ClusterPolicies[name] = nil
		return
	}
	c.ClusterPolicies[i] = c.clusterPolicy(name)
	changes.ClusterPolicies[name] = c.ClusterPolicies[i]
}
