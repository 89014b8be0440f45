package tsh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/threshold-access/threshold/tsh/profile"
	"github.com/threshold-access/threshold/tsh/terminal"
)

const (
	// agentTime bounds each exchange with ssh-agent.
	agentTime = 5 * time.Second
	// maxDestinations keeps the message to ssh-agent, with about 150 bytes for each destination, under the
	// limit of 256 KiB (OpenSSH, AGENT_MAX_LEN).
	maxDestinations = 1000
	// restrictDestination is the constraint of OpenSSH since 8.9 (PROTOCOL.agent section 2).
	restrictDestination = "restrict-destination-v00@openssh.com"
)

// updateAgent replaces the key and certificate of the old login in ssh-agent by the new ones. mode is auto,
// yes or no. The login succeeds even if this fails, because tsh itself uses the files.
func (a *app) updateAgent(ctx context.Context, mode string, old, p *profile.Profile) {
	if old != nil {
		a.removeAgentKeys(old.Info)
	}
	if mode == "no" || p.SSHCert == nil || a.Getenv("SSH_AUTH_SOCK") == "" {
		return
	}
	if err := a.addToAgent(ctx, mode, p); err != nil {
		fmt.Fprintf(a.Stderr, "The key was not loaded into ssh-agent: %s.\n", terminal.Clean(err.Error()))
	}
}

// addToAgent loads the key with a limit on destinations. If that fails, mode yes loads it without one.
func (a *app) addToAgent(ctx context.Context, mode string, p *profile.Profile) error {
	key := agent.AddedKey{
		PrivateKey:   p.SSHKey,
		Certificate:  p.SSHCert,
		Comment:      agentComment(p.Info),
		LifetimeSecs: uint32(max(1, p.Expires.Sub(a.Now())/time.Second)),
	}
	restricted, err := a.restrictKey(ctx, p, key)
	if err == nil {
		if err = a.withAgent(func(c agent.ExtendedAgent) error { return c.Add(restricted) }); err == nil {
			return nil
		}
		err = errors.New("this agent cannot limit a key to certain hosts " +
			"(to load the key without the limit: --add-keys-to-agent=yes)")
	}
	if mode != "yes" {
		return err
	}
	if err := a.withAgent(func(c agent.ExtendedAgent) error { return c.Add(key) }); err != nil {
		return err
	}
	fmt.Fprintln(
		a.Stderr,
		"The key was loaded into ssh-agent without a limit on hosts: "+
			"forward this agent only to machines you trust.",
	)
	return nil
}

// restrictKey limits a key to connections from this machine to the proxy and to the nodes that the user can
// log in to. A forwarded agent then cannot use it for connections from a node to another. OpenSSH compares
// whole host names, so each node is listed; a node that joins later is reached with the key file.
func (a *app) restrictKey(
	ctx context.Context,
	p *profile.Profile,
	key agent.AddedKey,
) (agent.AddedKey, error) {
	nodes, err := a.nodes(ctx, p, nil)
	if err != nil {
		return key, err
	}
	hosts := []string{p.Host()}
	for _, n := range nodes {
		if len(n.Logins) > 0 {
			hosts = append(hosts, n.Name+"."+p.Cluster)
		}
	}
	if len(hosts) > maxDestinations {
		return key, fmt.Errorf("%d nodes are more destinations than an agent accepts", len(hosts)-1)
	}
	key.ConstraintExtensions = []agent.ConstraintExtension{{
		ExtensionName:    restrictDestination,
		ExtensionDetails: encodeConstraints(hosts, p.Authorities.HostSSH),
	}}
	return key, nil
}

// constraintHop is one end of a destination constraint. Keys has pairs of a key and whether it is an
// authority.
type constraintHop struct {
	User     string
	Host     string
	Reserved string
	Keys     []byte `ssh:"rest"`
}

// destConstraint says from where to where a key may be used (OpenSSH PROTOCOL.agent section 2). From and To
// are encoded hops.
type destConstraint struct {
	From     []byte // an empty hop: this machine
	To       []byte
	Reserved string
}

// encodeConstraints encodes, for each host, "from this machine to the host, with a host certificate of one of
// the authorities" (OpenSSH ssh-agent.c, parse_dest_constraint).
func encodeConstraints(hosts []string, authorities []ssh.PublicKey) []byte {
	var keys []byte
	for _, k := range authorities {
		keys = append(keys, ssh.Marshal(struct {
			Key         []byte
			IsAuthority bool
		}{k.Marshal(), true})...)
	}
	from := ssh.Marshal(constraintHop{})
	var list []byte
	for _, h := range hosts {
		c := ssh.Marshal(destConstraint{From: from, To: ssh.Marshal(constraintHop{Host: h, Keys: keys})})
		list = append(list, ssh.Marshal(struct{ B []byte }{c})...)
	}
	return list
}

// removeAgentKeys removes from ssh-agent every key that a login at this proxy put there. It does nothing
// without an agent.
func (a *app) removeAgentKeys(i profile.Info) {
	if a.Getenv("SSH_AUTH_SOCK") == "" {
		return
	}
	err := a.withAgent(func(c agent.ExtendedAgent) error {
		keys, err := c.List()
		if err != nil {
			return err
		}
		for _, k := range keys {
			if k.Comment == agentComment(i) {
				err = errors.Join(err, c.Remove(k))
			}
		}
		return err
	})
	if err != nil {
		fmt.Fprintf(
			a.Stderr,
			"The key could not be removed from ssh-agent (%s). The agent drops it when it expires.\n",
			terminal.Clean(err.Error()),
		)
	}
}

// agentComment identifies the keys of a login in ssh-agent.
func agentComment(i profile.Info) string { return "tsh " + i.User + " at " + i.Proxy }

// withAgent calls fn with a connection to ssh-agent.
func (a *app) withAgent(fn func(agent.ExtendedAgent) error) error {
	conn, err := net.DialTimeout("unix", a.Getenv("SSH_AUTH_SOCK"), agentTime)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(agentTime)); err != nil {
		return err
	}
	return fn(agent.NewClient(conn))
}
