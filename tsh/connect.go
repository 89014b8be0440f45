package tsh

import (
	"context"
	"fmt"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/tsh/profile"
	"github.com/threshold-access/threshold/tsh/sshclient"
)

// connect opens an SSH connection to the node that dest names, verifies the node's host certificate, and
// prints the node's banner to standard error unless quiet is true. The caller closes the connection.
//
// dest may name the node by its whole name, its first label or its machine id. To save a call, connect asks
// the auth service only for a machine id, or after the proxy has refused the name as typed: then it may be a
// first label. It returns the error of chooseLogin, of resolve, of the proxy or of the SSH connection.
func (a *app) connect(
	ctx context.Context,
	prof *profile.Profile,
	dest destination,
	quiet bool,
) (*sshclient.Client, error) {
	if prof.SSHCert == nil {
		return nil, noLoginsFault(prof)
	}
	login, err := a.chooseLogin(prof, dest.login)
	if err != nil {
		return nil, err
	}
	name := dest.node
	if machineID.MatchString(name) {
		node, err := a.resolve(ctx, prof, name)
		if err != nil {
			return nil, err
		}
		name = node.Name
	}
	client, err := a.connectTo(ctx, prof, login, name)
	if err != nil {
		wholeName, err := a.resolveAfterRefusal(ctx, prof, name, err)
		if err != nil {
			return nil, err
		}
		client, err = a.connectTo(ctx, prof, login, wholeName)
		if err != nil {
			return nil, err
		}
	}
	if banner := client.Banner(); banner != "" && !quiet {
		fmt.Fprintln(a.Stderr, banner)
	}
	return client, nil
}

// connectTo opens an SSH connection to the node with this whole name, and logs in as login. If the proxy
// refuses the node, it returns the proxy's refusal, which resolveAfterRefusal understands; see
// sshclient.Connect for other faults.
func (a *app) connectTo(
	ctx context.Context,
	prof *profile.Profile,
	login identity.Login,
	name string,
) (*sshclient.Client, error) {
	conn, err := a.dialNode(ctx, prof, name, sshclient.Features())
	if err != nil {
		return nil, err
	}
	return sshclient.Connect(ctx, conn, sshclient.Config{
		Node:            name,
		Login:           login,
		Key:             prof.SSHKey,
		Cert:            prof.SSHCert,
		HostAuthorities: prof.Authorities.HostSSH,
		Now:             a.Now,
		Refused:         conn.refused,
		NodeFeatures:    conn.NodeFeatures,
		CheckMachine:    func(id identity.MachineID) error { return conn.locks.checkNode(name, id) },
	})
}
