package agent

import (
	"cmp"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/threshold-access/threshold/internal/config"
	"github.com/threshold-access/threshold/internal/daemon"
	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/node"
)

const (
	// tokenVariable may hold the join token. Unlike the command line it does not show in ps.
	tokenVariable = "THRESHOLD_TOKEN"
	// systemDataDir is where a node that runs as root keeps its keys.
	systemDataDir = "/var/lib/threshold-node"
	// defaultFile is read when the command line names neither a file nor a proxy.
	defaultFile = "/etc/threshold/node.yaml"
	// maxTokenFile bounds the file of a join token, in bytes.
	maxTokenFile = 4 << 10
)

// file is the configuration file.
type file struct {
	Kind    string `yaml:"kind"    config:"required"` // node
	Version string `yaml:"version" config:"required"` // v1
	Spec    spec   `yaml:"spec"    config:"required"`
}

// spec has a field for each flag, except for the token itself, which belongs in a file of its own.
type spec struct {
	Proxies   config.Strings    `yaml:"proxies"     config:"required"`
	TokenFile string            `yaml:"token_file"`
	Data      string            `yaml:"data"`
	Name      string            `yaml:"name"`
	Labels    map[string]string `yaml:"labels"`
	// HTTPSProxy is an HTTP proxy on the way to the cluster. Empty means HTTPS_PROXY of the environment.
	HTTPSProxy string `yaml:"https_proxy"`
	// NoProxy is what is reached without that proxy. Empty means NO_PROXY of the environment.
	NoProxy string `yaml:"no_proxy"`
	// Log is the level and the format of the log. Flags override it.
	Log daemon.Log `yaml:"log"`
	// Health is an address on loopback that answers /healthz and /readyz. Empty means none: the agent then
	// listens on nothing.
	Health string `yaml:"health"`
	// Drain is how long sessions may go on after SIGTERM. Zero means 10 s; more than 1 h is refused.
	Drain time.Duration `yaml:"drain"`
}

// Check finds the faults that the types do not exclude.
func (f file) Check(report func(path, format string, args ...any)) {
	if f.Kind != "" && f.Kind != "node" {
		report("kind", "is %q; the configuration of a node has kind: node", f.Kind)
	}
	if f.Version != "" && f.Version != "v1" {
		report("version", "is %q; this program knows v1", f.Version)
	}
	if err := identity.Labels(f.Spec.Labels).Check(); err != nil {
		report("spec.labels", "%v", err)
	}
	if f.Spec.Health != "" {
		if err := daemon.CheckHealthAddr(f.Spec.Health); err != nil {
			report("spec.health", "%v", err)
		}
	}
	if f.Spec.Drain > node.MaxDrain {
		report("spec.drain", "is %s; it must be at most %s", f.Spec.Drain, node.MaxDrain)
	}
}

// readFile reads the configuration file. Without a name it returns an empty configuration.
func readFile(name string) (s spec, err error) {
	if name == "" {
		return s, nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		msg := "the configuration file " + name + " cannot be read: " + reason(err)
		return s, fault.Wrap(err, fault.Invalid, "", msg, "name another file with --config")
	}
	var f file
	err = config.Decode(name, b, &f)
	return f.Spec, err
}

// nodeConfig combines the sources: a flag wins over the file, and the file over the environment.
func (o *options) nodeConfig(s spec, env func(string) (string, bool)) (node.Config, error) {
	cfg := node.Config{
		Proxies: s.Proxies,
		Dir:     cmp.Or(o.data, s.Data),
		Name:    cmp.Or(o.name, s.Name),
		Labels:  identity.Labels(s.Labels),
		Drain:   s.Drain,
	}
	if len(o.proxies) > 0 {
		cfg.Proxies = o.proxies
	}
	if len(o.labels) > 0 {
		cfg.Labels = identity.Labels(o.labels)
	}
	for i, p := range cfg.Proxies {
		cfg.Proxies[i] = withPort(p)
	}
	if len(cfg.Proxies) == 0 {
		const remedy = "give the cluster's address, as --proxy proxy.example.com:443, or write " + defaultFile
		return node.Config{}, fault.New(fault.Invalid, "", "no proxy is configured", remedy)
	}
	environment := egress.ConfigFromEnv(func(k string) string { v, _ := env(k); return v })
	cfg.Egress = egress.Config{
		HTTPSProxy: cmp.Or(o.httpsProxy, s.HTTPSProxy),
		NoProxy:    s.NoProxy,
	}.WithDefaults(environment)
	var err error
	if cfg.Dir == "" {
		if cfg.Dir, err = dataDir(os.Geteuid(), env); err != nil {
			return node.Config{}, err
		}
	}
	cfg.Token, err = o.joinToken(s.TokenFile, env)
	return cfg, err
}

// joinToken returns the join token, or an empty one if none is given. configured is the token file that the
// configuration file names. It may be gone: it should be removed after the join.
func (o *options) joinToken(configured string, env func(string) (string, bool)) (string, error) {
	if o.token != "" {
		return o.token, nil
	}
	name := cmp.Or(o.tokenFile, configured)
	if name == "" {
		t, _ := env(tokenVariable)
		return t, nil
	}
	const remedy = "check --token-file"
	b, err := os.ReadFile(name)
	switch {
	case errors.Is(err, os.ErrNotExist) && o.tokenFile == "":
		return "", nil
	case err != nil:
		msg := "the token file " + name + " cannot be read: " + reason(err)
		return "", fault.Wrap(err, fault.Invalid, "", msg, remedy)
	case len(b) > maxTokenFile:
		return "", fault.New(fault.Invalid, "", "the token file "+name+" is too large for a token", remedy)
	}
	return strings.TrimSpace(string(b)), nil
}

// dataDir is where keys are kept if nothing names a directory.
func dataDir(uid int, env func(string) (string, bool)) (string, error) {
	if uid == 0 {
		return systemDataDir, nil
	}
	if dir, ok := env("XDG_STATE_HOME"); ok && filepath.IsAbs(dir) {
		return filepath.Join(dir, "threshold-node"), nil
	}
	if home, ok := env("HOME"); ok && filepath.IsAbs(home) {
		return filepath.Join(home, ".local", "state", "threshold-node"), nil
	}
	const msg = "there is no home directory in which to keep keys"
	return "", fault.New(fault.Invalid, "", msg, "name a directory with --data")
}

// withPort adds port 443 to a host without a port. It leaves what is no host to node.New, which refuses it.
func withPort(addr string) string {
	host := strings.Trim(addr, "[]")
	bare := !strings.Contains(host, ":") || net.ParseIP(host) != nil
	if bare && !strings.ContainsAny(addr, "/ ") {
		return net.JoinHostPort(host, "443")
	}
	return addr
}

// reason is why a file cannot be read, without its name.
func reason(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}
