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

// updateAgent removes the key and certificate of the previous login, if previous is not nil, from ssh-agent
// and loads those of the new login. mode is the value of --add-keys-to-agent: with "no" it only removes. It
// prints why the key could not be loaded, and returns no error: tsh itself uses the files, so the login is
// complete.
func (a *app) updateAgent(ctx context.Context, mode string, previous, prof *profile.Profile) {
	if previous != nil {
		a.removeAgentKeys(previous.Info)
	}
	if mode == "no" || prof.SSHCert == nil || a.agent() == "" {
		return
	}
	if err := a.addToAgent(ctx, mode, prof); err != nil {
		fmt.Fprintf(a.Stderr, "The key was not loaded into ssh-agent: %s.\n", terminal.Clean(err.Error()))
	}
}

// addToAgent loads the key and certificate of a login into ssh-agent, which drops them when the certificate
// expires and uses them only for connections to the cluster's hosts. If the agent cannot limit a key to
// hosts, or the list of hosts is not available, mode decides: with "auto" addToAgent loads nothing and
// returns the error; with "yes" it loads the key without the limit and prints a warning.
func (a *app) addToAgent(ctx context.Context, mode string, prof *profile.Profile) error {
	key := agent.AddedKey{
		PrivateKey:   prof.SSHKey,
		Certificate:  prof.SSHCert,
		Comment:      agentComment(prof.Info),
		LifetimeSecs: uint32(max(1, prof.Expires.Sub(a.Now())/time.Second)), // 0 would mean for ever
	}
	hosts, err := a.agentHosts(ctx, prof)
	if err == nil {
		err = a.agent().AddFor(key, hosts, prof.Authorities.HostSSH)
	}
	if err == nil {
		return nil
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

// agentHosts returns the hosts for which the key in ssh-agent may be used: the proxies and the nodes that the
// user can log in to. A node that joins later is reached with the key file.
func (a *app) agentHosts(ctx context.Context, prof *profile.Profile) ([]string, error) {
	nodes, err := a.nodes(ctx, prof, nil)
	if err != nil {
		return nil, err
	}
	var hosts []string
	for _, proxy := range prof.Proxies {
		hosts = append(hosts, proxy.Host())
	}
	for _, node := range nodes {
		if len(node.Logins) > 0 {
			hosts = append(hosts, node.Name+"."+prof.Cluster)
		}
	}
	return hosts, nil
}

// removeAgentKeys removes from ssh-agent every key that a login at this cluster put there. It does nothing
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
func agentComment(info profile.Info) string { return "tsh " + info.User + " at " + info.Cluster }
