package main

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/node"
)

func environment(vars map[string]string) func(string) (string, bool) {
	return func(k string) (string, bool) { v, ok := vars[k]; return v, ok }
}

func put(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "node.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func configure(t *testing.T, vars map[string]string, args ...string) (node.Config, error) {
	t.Helper()
	var out strings.Builder
	o, err := parse(args, &out)
	if err != nil {
		t.Fatalf("%v: %v: %s", args, err, out.String())
	}
	s, err := o.read()
	if err != nil {
		return node.Config{}, err
	}
	return o.config(s, environment(vars))
}

const whole = `kind: node
version: v1
spec:
  proxies: [a.example.com:443, b.example.com:443]
  token_file: TOKEN
  data: /data
  name: from-file
  labels: {env: file}
`

func TestFlagsWinOverTheFile(t *testing.T) {
	token := put(t, " secret \n")
	path := put(t, strings.ReplaceAll(whole, "TOKEN", token))
	cfg, err := configure(t, nil, "--config", path)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(cfg.Proxies, []string{"a.example.com:443", "b.example.com:443"}) || cfg.Dir != "/data" ||
		cfg.Name != "from-file" ||
		cfg.Labels["env"] != "file" ||
		cfg.Token != "secret" {
		t.Errorf("got %+v from the file", cfg)
	}
	cfg, err = configure(
		t,
		map[string]string{tokenVariable: "not this"},
		"--config",
		path,
		"--proxy",
		"c:1,d:2",
		"--proxy=e:3",
		"--data",
		"/x",
		"--name",
		"n",
		"--label",
		"env=flag",
		"--label",
		"team=core",
		"--token",
		"on-the-line",
	)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(cfg.Proxies, []string{"c:1", "d:2", "e:3"}) || cfg.Dir != "/x" || cfg.Name != "n" ||
		cfg.Labels["env"] != "flag" ||
		cfg.Labels["team"] != "core" ||
		cfg.Token != "on-the-line" {
		t.Errorf("got %+v from the flags", cfg)
	}
}

func TestTheTokenComesFromTheEnvironmentLast(t *testing.T) {
	vars := map[string]string{tokenVariable: "env"}
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"alone", nil, "env"},
		{"beside a file", []string{"--token-file", put(t, "file")}, "file"},
		{"beside the flag", []string{"--token", "flag"}, "flag"},
	} {
		cfg, err := configure(t, vars, append([]string{"--proxy", "p:1", "--data", "/d"}, tt.args...)...)
		if err != nil || cfg.Token != tt.want {
			t.Errorf("%s: got %q, %v, want %q", tt.name, cfg.Token, err, tt.want)
		}
	}
}

func TestTheWayOutIsTheFlagsThenTheFilesThenTheEnvironments(t *testing.T) {
	env := map[string]string{"HTTPS_PROXY": "env:1", "NO_PROXY": "env.example.com", "HTTP_PROXY": "clear:1"}
	path := put(
		t,
		"kind: node\nversion: v1\nspec: {proxies: [p:1], data: /d, https_proxy: 'http://bob:secret@file:1', no_proxy: file.example.com}\n",
	)
	for _, tt := range []struct {
		name string
		args []string
		want egress.Config
	}{
		{"the environment alone", []string{"--proxy", "p:1", "--data", "/d"}, egress.Config{HTTPSProxy: "env:1", NoProxy: "env.example.com"}},
		{"a file", []string{"--config", path}, egress.Config{HTTPSProxy: "http://bob:secret@file:1", NoProxy: "file.example.com"}},
		{"a flag", []string{"--config", path, "--https-proxy", "flag:1"}, egress.Config{HTTPSProxy: "flag:1", NoProxy: "file.example.com"}},
	} {
		cfg, err := configure(t, env, tt.args...)
		if err != nil || cfg.Egress != tt.want {
			t.Errorf("%s: got %+v, %v, want %+v", tt.name, cfg.Egress, err, tt.want)
		}
	}
}

func TestInvalidConfigurations(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"no proxy", nil, "no proxy"},
		{"a file that is not there", []string{"--config", "/none"}, "/none cannot be read"},
		{"a token file that is not there", []string{"--proxy", "p:1", "--token-file", "/none"}, "/none cannot be read"},
		{"an unknown key", []string{"--config", put(t, "kind: node\nversion: v1\nspec: {proxies: [p:1], naem: x}\n")}, "name"},
		{"another kind", []string{"--config", put(t, "kind: server\nversion: v1\nspec: {proxies: [p:1]}\n")}, "kind: node"},
		{"a newer version", []string{"--config", put(t, "kind: node\nversion: v2\nspec: {proxies: [p:1]}\n")}, "knows v1"},
		{"all faults at once", []string{"--config", put(t, "kind: x\nversion: v9\nspec: {proxies: [p:1], labels: {'a b': c}}\n")}, "a b"},
	} {
		_, err := configure(t, nil, tt.args...)
		if !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), tt.want) ||
			fault.Remedy(err) == "" {
			t.Errorf(
				"%s: got %v (remedy %q), want an invalid fault with %q",
				tt.name,
				err,
				fault.Remedy(err),
				tt.want,
			)
		}
	}
}

func TestATokenFileNamedInTheConfigurationMayBeGone(t *testing.T) {
	cfg, err := configure(t, nil, "--config", put(t, strings.ReplaceAll(whole, "TOKEN", "/none")))
	if err != nil || cfg.Token != "" {
		t.Errorf("got %q, %v, want no token and no error", cfg.Token, err)
	}
}

func TestWhereDataIsKept(t *testing.T) {
	for _, tt := range []struct {
		uid  int
		vars map[string]string
		want string
	}{
		{0, map[string]string{"HOME": "/root"}, "/var/lib/threshold-node"},
		{1000, map[string]string{"HOME": "/home/a"}, "/home/a/.local/state/threshold-node"},
		{1000, map[string]string{"HOME": "/home/a", "XDG_STATE_HOME": "/state"}, "/state/threshold-node"},
	} {
		if got, err := dataDir(tt.uid, environment(tt.vars)); err != nil || got != tt.want {
			t.Errorf("got %q, %v, want %q", got, err, tt.want)
		}
	}
	if _, err := dataDir(1000, environment(nil)); !fault.Is(err, fault.Invalid) {
		t.Errorf("got %v without a home, want an invalid fault", err)
	}
}

func TestExitStatus(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		args []string
		want int
		says string
	}{
		{[]string{"--version"}, 0, "threshold-node dev"},
		{[]string{"version"}, 0, "threshold-node dev"},
		{[]string{"-h"}, 0, "--token-file"},
		{[]string{"--no-such-flag"}, 2, "no-such-flag\nthreshold-node: hint: run: threshold-node -h\n"},
		{[]string{"--label", "novalue"}, 2, "key=value"},
		{[]string{"start"}, 2, `"start" is no flag`},
		{[]string{"--log-level", "loud"}, 1, "known are debug"},
		{[]string{"--log-format", "json", "--config", "/none"}, 1, `"remedy":"name another with --config"`},
		{[]string{"--check", "--config", put(t, "kind: node\nversion: v1\nspec: {proxies: ['p:1'], data: /d, log: {level: warn}, health: '127.0.0.1:3080', drain: 30s}\n")}, 0, "ok, dials p:1"},
		{[]string{"--check", "--config", put(t, "kind: node\nversion: v1\nspec: {proxies: ['p:'], data: /d}\n")}, 1, "is not host:port"},
		{[]string{"--check", "--config", put(t, "kind: node\nversion: v1\nspec: {proxies: ['p:1'], health: '0.0.0.0:3080', drain: 2h, log: {level: x}}\n")}, 1, "not on loopback"},
		{nil, 1, "hint: give the cluster's address"},
		{[]string{"--proxy", "127.0.0.1:1", "--data", t.TempDir() + "/d", "--https-proxy", "socks5://x:1"}, 1, "only http:// and https:// proxies"},
		{[]string{"--proxy", "127.0.0.1:1", "--data", t.TempDir() + "/d", "--https-proxy", "http://bob:pw@x:1"}, 1, "password stands on the command line"},
		{[]string{"--proxy", "p:", "--data", t.TempDir()}, 1, "is not host:port"},
		{[]string{"--proxy", "127.0.0.1:1", "--data", t.TempDir() + "/d"}, 1, "no join token"},
		{[]string{"--proxy", "127.0.0.1:1", "--data", t.TempDir() + "/d", "--token", "x"}, 1, "others on this machine can read it"},
	} {
		var out strings.Builder
		if got := run(ctx, tt.args, &out, &out); got != tt.want || !strings.Contains(out.String(), tt.says) {
			t.Errorf("%v: got status %d and %q, want %d and %q", tt.args, got, out.String(), tt.want, tt.says)
		}
	}
	if _, err := parse([]string{"-h"}, &strings.Builder{}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("got %v for -h, want help", err)
	}
}

func TestTheDefaultFileIsReadWhenNothingElseSaysWhereToGo(t *testing.T) {
	path := put(t, whole)
	for _, tt := range []struct {
		name string
		args []string
		file string
		want string
	}{
		{"without flags", nil, path, path},
		{"with flags that name no proxy", []string{"--check", "--log-level", "debug"}, path, path},
		{"beside a proxy", []string{"--proxy", "p:1"}, path, ""},
		{"beside another file", []string{"--config", "/other"}, path, "/other"},
		{"where there is none", nil, path + "-none", ""},
	} {
		o, err := parse(tt.args, &strings.Builder{})
		if err != nil {
			t.Fatal(err)
		}
		if got := o.orDefault(tt.file).file; got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestAProxyWithoutAPortIsOnTheHTTPSPort(t *testing.T) {
	for addr, want := range map[string]string{
		"p.example.com": "p.example.com:443", "p.example.com:8443": "p.example.com:8443", "192.0.2.1": "192.0.2.1:443", "2001:db8::1": "[2001:db8::1]:443", "[2001:db8::1]": "[2001:db8::1]:443",
		"[2001:db8::1]:8443": "[2001:db8::1]:8443",
	} {
		cfg, err := configure(t, nil, "--proxy", addr, "--data", "/d")
		if err != nil || cfg.Proxies[0] != want {
			t.Errorf("%s: got %v, %v, want %s", addr, cfg.Proxies, err, want)
		}
	}
}
