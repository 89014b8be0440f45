package tsh

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh/agent"

	"github.com/threshold-access/threshold/tsh/profile"
	"github.com/threshold-access/threshold/tsh/sshagent"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// agent returns the user's ssh-agent. It is empty if there is none.
func (a *app) agent() sshagent.Agent { return sshagent.Agent(a.Getenv("SSH_AUTH_SOCK")) }

// updateAgent replaces the key and certificate of the old login in ssh-agent by the new ones. mode is auto,
// yes or no. The login succeeds even if this fails, because tsh itself uses the files.
func (a *app) updateAgent(ctx context.Context, mode string, old, p *profile.Profile) {
	if old != nil {
		a.removeAgentKeys(old.Info)
	}
	if mode == "no" || p.SSHCert == nil || a.agent() == "" {
		return
	}
	if err := a.addToAgent(ctx, mode, p); err != nil {
		fmt.Fprintf(a.Stderr, "The key was not loaded into ssh-agent: %s.\n", terminal.Clean(err.Error()))
	}
}

// addToAgent loads the key with a limit to the cluster's hosts. If that fails, mode yes loads it without a
// limit.
func (a *app) addToAgent(ctx context.Context, mode string, p *profile.Profile) error {
	key := agent.AddedKey{
		PrivateKey:   p.SSHKey,
		Certificate:  p.SSHCert,
		Comment:      agentComment(p.Info),
		LifetimeSecs: uint32(max(1, p.Expires.Sub(a.Now())/time.Second)),
	}
	hosts, err := a.agentHosts(ctx, p)
	if err == nil {
		if err = a.agent().AddFor(key, hosts, p.Authorities.HostSSH); err == nil {
			return nil
		}
	}
	if mode != "yes" {
		if errors.Is(err, sshagent.ErrCannotLimit) {
			err = fmt.Errorf("%w (to load the key without the limit: --add-keys-to-agent=yes)", err)
		}
		return err
	}
	if err := a.agent().Add(key); err != nil {
		return err
	}
	fmt.Fprintln(
		a.Stderr,
		"The key was loaded into ssh-agent without a limit on hosts: "+
			"forward this agent only to machines you trust.",
	)
	return nil
}

// agentHosts returns the hosts for which the key in ssh-agent may be used: the proxy and the nodes that the
// user can log in to. A node that joins later is reached with the key file.
func (a *app) agentHosts(ctx context.Context, p *profile.Profile) ([]string, error) {
	nodes, err := a.nodes(ctx, p, nil)
	if err != nil {
		return nil, err
	}
	hosts := []string{p.Host()}
	for _, n := range nodes {
		if len(n.Logins) > 0 {
			hosts = append(hosts, n.Name+"."+p.Cluster)
		}
	}
	return hosts, nil
}

// removeAgentKeys removes from ssh-agent every key that a login at this proxy put there. It does nothing
// without an agent.
func (a *app) removeAgentKeys(i profile.Info) {
	if a.agent() == "" {
		return
	}
	if err := a.agent().Remove(agentComment(i)); err != nil {
		fmt.Fprintf(
			a.Stderr,
			"The key could not be removed from ssh-agent (%s). The agent drops it when it expires.\n",
			terminal.Clean(err.Error()),
		)
	}
}

// agentComment identifies the keys of a login in ssh-agent.
func agentComment(i profile.Info) string { return "tsh " + i.User + " at " + i.Proxy }
