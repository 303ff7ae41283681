// Package policytest holds what tests around policies share: random clusters, and cases whose outcome is known.
//
//	Generate   a random cluster: pods, namespaces, policies of both kinds; Flows that are worth asking about; Change by change
//	Cases      named sets of policies, each with what it leaves open between nine pods
//	Manifests  the namespaces and policies of either as YAML
//
// A case's way: a test gives Changes to what it tests, and asks for each of Checks whether the connection is allowed: in policy by World.Decide, in
// policy/filter by following its rules, on a kernel by packets. The case "ports: ingress of NetworkPolicy: a named port" isolates x/*, allows
// TCP by the name web, and expects that of x/a TCP 80 is open, of x/b TCP 81, and of x/c, where UDP 80 has that name, nothing.
//
// A random cluster's way: a test generates it from a seed, gives Changes to World and to what it tests, and compares what both say of Flows; then
// it does so again after each Change.
package policytest
