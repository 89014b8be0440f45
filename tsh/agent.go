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
func (a *app) updateAgent(ctx context.Context, mode string, old, prof *profile.Profile) {
	if old != nil {
		a.removeAgentKeys(old.Info)
	}
	if mode == "no" || prof.SSHCert == nil || a.agent() == "" {
		return
	}
	if err := a.addToAgent(ctx, mode, prof); err != nil {
		fmt.Fprintf(a.Stderr, "The key was not loaded into ssh-agent: %s.\n", terminal.Clean(err.Error()))
	}
}

// addToAgent loads the key of a login into ssh-agent until the certificate expires, for the cluster's hosts
// only. If the agent cannot limit it, or the hosts are not known, mode yes loads it without a limit and
// prints a warning; mode auto returns the error.
func (a *app) addToAgent(ctx context.Context, mode string, prof *profile.Profile) error {
	key := agent.AddedKey{
		PrivateKey:   prof.SSHKey,
		Certificate:  prof.SSHCert,
		Comment:      agentComment(prof.Info),
		LifetimeSecs: uint32(max(1, prof.Expires.Sub(a.Now())/time.Second)),
	}
	hosts, err := a.agentHosts(ctx, prof)
	if err == nil {
		if err = a.agent().AddFor(key, hosts, prof.Authorities.HostSSH); err == nil {
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
func (a *app) agentHosts(ctx context.Context, prof *profile.Profile) ([]string, error) {
	nodes, err := a.nodes(ctx, prof, nil)
	if err != nil {
		return nil, err
	}
	hosts := []string{prof.Host()}
	for _, node := range nodes {
		if len(node.Logins) > 0 {
			hosts = append(hosts, node.Name+"."+prof.Cluster)
		}
	}
	return hosts, nil
}

// removeAgentKeys removes from ssh-agent every key that a login at this proxy put there. It does nothing
// without an agent.
func (a *app) removeAgentKeys(info profile.Info) {
	if a.agent() == "" {
		return
	}
	if err := a.agent().Remove(agentComment(info)); err != nil {
		fmt.Fprintf(
			a.Stderr,
			"The key could not be removed from ssh-agent (%s). The agent drops it when it expires.\n",
			terminal.Clean(err.Error()),
		)
	}
}

// agentComment identifies the keys of a login in ssh-agent.
func agentComment(info profile.Info) string { return "tsh " + info.User + " at " + info.Proxy }
