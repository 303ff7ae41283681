package redact

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDocument(t *testing.T) {
	tests := []struct{ name, document, want string }{
		{"a password", "peers:\n- name: tor\n  password: PLANTED\n", "peers:\n- name: tor\n  password: (hidden)\n"},
		{"where a password is", "passwordFile: /etc/twill/bgp\n", "passwordFile: /etc/twill/bgp\n"},
		{"a token in a conflist", `{"plugins":[{"type":"calico","policy":{"type":"k8s","k8s_auth_token":"PLANTED"}}]}`,
			"plugins:\n- policy:\n    k8s_auth_token: (hidden)\n    type: k8s\n  type: calico\n"},
		{"a mapping of secrets", "credentials: {a: PLANTED, b: {c: PLANTED}}\n", "credentials: (hidden)\n"},
		{"a list of secrets", "tokens: [PLANTED]\n", "tokens: (hidden)\n"},
		{"keys of kubeconfigs", "client-key-data: PLANTED\nclient-certificate-data: PLANTED\n", "client-certificate-data: (hidden)\nclient-key-data: (hidden)\n"},
		{"in a URL", "etcd_endpoints: http://root:PLANTED@10.0.0.1:2379,https://u:PLAN/TED@b\n", "etcd_endpoints: http://(hidden)@10.0.0.1:2379,https://(hidden)@b\n"},
		{"PEM", "ca: |\n  -----BEGIN CERTIFICATE-----\n  PLANTED\n", "ca: (hidden)\n"},
		{"a comment", "a: 1 # PLANTED\n", "a: 1\n"},
		{"nothing secret", "as: 65001\nnodes: {labels: {rack: r1}}\npassword: null\n", "as: 65001\nnodes:\n  labels:\n    rack: r1\npassword: null\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := Document([]byte(tt.document)); err != nil || got != tt.want {
				t.Errorf("%v\n%s\nwant\n%s", err, got, tt.want)
			}
		})
	}
	for _, bad := range []string{"password: PLANTED\n\tx: [", "PLANTED: {", strings.Repeat("x", MaxSize+1)} {
		if got, err := Document([]byte(bad)); err == nil || got != "" || strings.Contains(err.Error(), "PLANTED") {
			t.Errorf("%q, %v", got, err)
		}
	}
}

func TestKeys(t *testing.T) {
	hidden := []string{"apiKey", "accessKey", "clientKey", "sharedKey", "encryptionKey", "keyData", "pass", "pwd", "authProfile", "authprofile",
		"key", "api_key", "api-key", "api.key", "APIKey", "apiKEY", "apikey", "API_KEY", "key1", "s3key", "apiKey2", "keys", "keydata", "privatekey", "privateKeyPEM",
		"dbPass", "userpass", "PWD", "my_pwd", "passPhrase", "passWord", "password2", "toKen", "OAuth", "k8s_auth_token", "psk", "client-key-data", "clientKeyData",
		"certificateData", "certificate-authority-data", "etcd-password", "TWILLD_ETCD_PASSWORD", "fileKey", "nameToken", "secretProfile", "cookies"}
	shown := []string{"keyFile", "keyfile", "etcd-keyfile", "etcd-certfile", "etcd-cafile", "TWILLD_ETCD_KEYFILE", "passwordFile", "passwordfile", "password_file_2", "tokenPath",
		"secretName", "credentialsDir", "keyFilename", "authKeyPath", "profile", "etcd-username", "name", "path", "dataDir", "ifName", "nameservers", "asPath",
		"keepalive", "passthrough", "etcd-prefix", "k8s_api_root", "", "1", "-"}
	for _, key := range hidden {
		if !isSecret(key) {
			t.Errorf("%q is shown: %q", key, words(key))
		}
	}
	for _, key := range shown {
		if isSecret(key) {
			t.Errorf("%q is hidden: %q", key, words(key))
		}
	}
}

func TestLines(t *testing.T) {
	const log = "level=INFO msg=a\nmsg=\"etcd http://root:PLANTED@10.0.0.1 is away\"\nkey=-----BEGIN PRIVATE KEY----- PLANTED\nend"
	const want = "level=INFO msg=a\nmsg=\"etcd http://(hidden)@10.0.0.1 is away\"\n(hidden)\nend\n"
	if got := Lines(log); got != want {
		t.Errorf("%q", got)
	}
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"10-a.conflist": `{"token":"PLANTED"}`, "20-b.conf": "{", "notes": "PLANTED", "subnet.env": "FLANNEL_MTU=1450\nPASSWORD=PLANTED\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all := ReadConfigurations(dir)
	if len(all) != 2 || all[0].Text != "token: (hidden)\n" || all[1].Error == "" || all[1].Text != "" {
		t.Errorf("%+v", all)
	}
	if f := ReadSubnetFile(filepath.Join(dir, "subnet.env")); f.Text != "FLANNEL_MTU=1450\n" {
		t.Errorf("%+v", f)
	}
	if f := ReadDocument(filepath.Join(dir, "none")); f.Error == "" {
		t.Errorf("%+v", f)
	}
	if all := ReadConfigurations(filepath.Join(dir, "none")); len(all) != 1 || all[0].Error == "" {
		t.Errorf("%+v", all)
	}
}

func FuzzDocument(f *testing.F) {
	f.Add([]byte("a: {password: b}"))
	f.Add([]byte(`{"plugins":[{"k8s_auth_token":"x"}]}`))
	f.Add([]byte(`"key://file@": a`))
	f.Fuzz(func(t *testing.T, data []byte) {
		text, err := Document(data)
		if err != nil {
			return
		}
		again, err := Document([]byte(text))
		if err != nil || again != text {
			t.Errorf("%q becomes %q, and that %q (%v)", data, text, again, err)
		}
	})
}
