// Package netconf is the plugin's network configuration: the JSON object that a runtime passes on standard input for each call, and
// the variable CNI_ARGS. Parse reads it, fills in defaults and says what is wrong with it, key by key.
//
//	conflist of twilld + what the runtime adds (runtimeConfig, prevResult, ...)
//	        --Parse--> Config --> attach
//
// # Keys
//
//	key             default       meaning
//	cniVersion                    version of the specification: 0.4.0, 1.0.0 or 1.1.0
//	name                          name of the network
//	type                          "twill"
//	bridge          "cni0"        bridge that pods hang on; made when it is missing
//	mtu             0             bytes, of the pods' links and the bridge; 0: as the bridge is
//	hairpin         true          the bridge sends a frame back by the port that it came by, so that a pod reaches itself by way of a
//	                              Service or host port
//	runDir          "/run/twill"  directory for the records of attachments; on a tmpfs, so that a reboot leaves none
//	ipam            {}            address management. ipam.type "twill-ipam" runs in the process (keys: package ipam); any other names
//	                              a plugin in CNI_PATH
//	policy                        what twilld with --policy=on says, so that a pod is closed until its policies are known: networks of this
//	                              node's pods, cutMark, logGroup, logRate, logBurst (gate.Config); absent: nobody enforces policies
//	dns             {}            nameservers, domain, search, options: handed on in the result
//	clusterDomain                 domain of Services' names; the result's search list begins with NAMESPACE.svc of it, the pod's
//	                              namespace
//	capabilities    {}            which of the entries of runtimeConfig a runtime is to pass
//	runtimeConfig   {}            portMappings, bandwidth, ips, mac, dns: see docs/cni-config.md
//	args            {}            args.cni.ips and args.cni.mac: as runtimeConfig, which wins; args.cni.labels and
//	                              args.cni.ports: the pod's labels and named ports
//	prevResult                    CHECK and DEL: the result of the ADD. Not accepted by ADD
//
// A key that contains a slash belongs to the specification ("cni.dev/valid-attachments") or to a runtime and is let through. Every
// other key is an error. The verbs that remove are lenient: what one version of the plugin accepted must not keep another from cleaning up.
package netconf
