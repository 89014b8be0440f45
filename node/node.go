// Package node answers: how do people reach this machine, though it opens no port?
//
// It wires the packages inside: the membership of the cluster (internal/member), the tunnels to proxies
// (uplink), the signed rules (rules), the SSH server at the inner end of the tunnels (sshd), and the audit
// events that the auth service has not confirmed yet (spool). It listens on nothing.
package node

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/egress"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/lifecycle"
	"github.com/threshold-access/threshold/node/account"
	"github.com/threshold-access/threshold/node/asaccount"
	"github.com/threshold-access/threshold/node/process"
	"github.com/threshold-access/threshold/node/rules"
	"github.com/threshold-access/threshold/node/uplink"
)

// Config says which node this is, and which cluster it belongs to.
type Config struct {
	// Dir is the data directory: keys, rules and waiting events. It is created with mode 0700 if it is
	// missing. No two nodes may share one.
	Dir string
	// Proxies are addresses of the cluster's public port, host:port. At least one.
	Proxies []string
	// Egress says through which HTTP proxy or load balancer the proxies are reached. The zero value means
	// that they are reached directly.
	Egress egress.Config
	// Token is the join token. It is needed only while the machine is no member of the cluster.
	Token string
	// Name is the node's name, requested when it joins. Empty means this machine's host name.
	Name string
	// Labels are those that the node gives itself when it joins. They begin with identity.SelfPrefix.
	Labels identity.Labels
	// Version is the release of this program, which tsh shows in listings.
	Version string
	// Accounts are the accounts that sessions may run as. Nil means this machine's.
	Accounts *account.Database
	// Drain is how long sessions may go on after Run's context has ended. Zero means what the settings of the
	// cluster say; more than MaxDrain is refused.
	Drain time.Duration
	// Log is the program's log. Nil discards it.
	Log *slog.Logger
	// Now is the clock. Nil means time.Now.
	Now func() time.Time
}

// MaxDrain bounds Config.Drain.
const MaxDrain = time.Hour

// Node is one machine of the cluster that people reach. Its methods may be called by several goroutines at
// once; Run is called once.
type Node struct {
	cfg    Config
	dialer *egress.Dialer

	ready    *lifecycle.Readiness              // ready when the node has been attached to a proxy
	tunnels  atomic.Pointer[uplink.Tunnels]    // nil before the node is a member
	identity atomic.Pointer[identity.Identity] // nil before the node is a member
	keeper   atomic.Pointer[rules.Keeper]      // nil before the node is a member
}

// New returns the node of a configuration. It starts nothing: Run does. The error is a fault of kind Invalid
// that names everything that is wrong with cfg, except that faults of cfg.Egress are reported only if the
// rest is right.
func New(cfg Config) (*Node, error) {
	cfg.Name = cmp.Or(cfg.Name, hostName())
	if faults := cfg.validate(); len(faults) > 0 {
		return nil, nodeConfigInvalid.New("node.New", fault.Args{"faults": strings.Join(faults, "; ")})
	}
	cfg.Egress.LearnTransport = true // the proxy says whether a load balancer terminates TLS before it
	dialer, err := egress.New(cfg.Egress)
	if err != nil {
		return nil, err
	}
	if cfg.Accounts == nil {
		local := account.Local()
		cfg.Accounts = &local
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Node{cfg: cfg, dialer: dialer, ready: lifecycle.NewReadiness("the node")}, nil
}

// validate returns a sentence for each thing that is wrong with the configuration, apart from Egress.
func (cfg Config) validate() (faults []string) {
	report := func(format string, args ...any) {
		faults = append(faults, fmt.Sprintf(format, args...))
	}
	if cfg.Dir == "" {
		report("there is no data directory")
	}
	if len(cfg.Proxies) == 0 {
		report("there is no proxy to dial")
	}
	for _, addr := range cfg.Proxies {
		host, port, err := net.SplitHostPort(addr)
		_, portErr := strconv.ParseUint(port, 10, 16)
		if err != nil || portErr != nil || host == "" {
			report("the proxy %s is not host:port", addr)
		}
	}
	if err := identity.CheckMachineName(cfg.Name); err != nil {
		report("%v", err)
	}
	if err := cfg.Labels.CheckSelf(); err != nil {
		report("%v", err)
	}
	if cfg.Drain < 0 || cfg.Drain > MaxDrain {
		report("the time to drain is %s, not between 0 and %s", cfg.Drain, MaxDrain)
	}
	return faults
}

// hostName returns the machine's host name as a node name: in lower case, without the final dot of a DNS
// name. It returns "" if the machine has none; validate then refuses the configuration.
func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return strings.ToLower(strings.TrimSuffix(name, "."))
}

// Helper does the work of a helper process, if this process is one: a node starts its own program again to
// run something as another account. ok reports whether it is a helper. If so, the work is done, and main must
// exit with code and do nothing else. Every program that contains a node calls Helper first in main.
func Helper() (code int, ok bool) {
	if code, ok := process.RunHelper(); ok {
		return code, true
	}
	return asaccount.RunHelper()
}

// DrainTime is how long sessions may go on after Run's context has ended: Config.Drain, or what the settings
// of the cluster say now.
func (n *Node) DrainTime() time.Duration {
	var settings access.Settings
	if keeper := n.keeper.Load(); keeper != nil {
		settings = keeper.Current().Policy.Settings
	}
	return cmp.Or(n.cfg.Drain, time.Duration(settings.WithDefaults().Drain))
}

// Ready waits until the node has been attached to a proxy for the first time, and returns nil then. It
// returns an error if Run or ctx ends before that.
func (n *Node) Ready(ctx context.Context) error { return n.ready.Wait(ctx) }

// Identity returns the node's identity, or the zero value while the node is no member of the cluster.
func (n *Node) Identity() identity.Identity {
	if id := n.identity.Load(); id != nil {
		return *id
	}
	return identity.Identity{}
}
