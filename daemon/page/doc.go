// Package page serves a web page that shows how a node and its cluster are. It is off unless asked for, reads only, and asks for no password.
//
//	browser ──GET──► guard ──┬─► assets: HTML, CSS, ES modules, in the binary as they are in the repository
//	                         └─► /data/...: JSON ──► daemon/api's own answers, daemon/gauge, daemon/trace
//
// The guard lets through GET and HEAD to a name that nobody else can give the node (an IP address, or localhost: so no other site's name can be led here
// by DNS rebinding), from no other site's page (Sec-Fetch-Site), 16 requests at a time of 10 seconds at most, and one search or trace (queue). Pages may not frame it, and what it
// loads comes from it alone (Content-Security-Policy, without inline script or style). Everything from outside is put into the page as text, never as markup.
//
// Somebody looks for a Service: /data/search?q=web lists the names of Services, which are asked of the proxy's Inspector and kept for some seconds, and pods, those of
// this node and, where policies are enforced, of the cluster. A click asks /data/services?name=default/web, which api's own handler answers.
package page
