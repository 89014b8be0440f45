package sshclient

import (
	"crypto/ed25519"
	"crypto/rand"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/testnet"
	"github.com/threshold-access/threshold/internal/wire"
)

// newCertificate makes a key with a certificate that authority signs. A nil authority means the key itself.
func newCertificate(t *testing.T, kind uint32, authority ssh.Signer) (ed25519.PrivateKey, *ssh.Certificate) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	c := &ssh.Certificate{
		Key:             key,
		CertType:        kind,
		ValidPrincipals: []string{"web-1"},
		ValidAfter:      uint64(time.Now().Add(-time.Minute).Unix()),
		ValidBefore:     uint64(time.Now().Add(time.Hour).Unix()),
	}
	if authority == nil {
		if authority, err = ssh.NewSignerFromKey(private); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.SignCert(rand.Reader, authority); err != nil {
		t.Fatal(err)
	}
	return private, c
}

// serveNotices is a node that admits everybody and sends the payloads as lists of its features.
func serveNotices(conn net.Conn, host ssh.Signer, notices <-chan []byte) {
	defer conn.Close()
	cfg := &ssh.ServerConfig{
		PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) {
			return nil, nil
		},
	}
	cfg.AddHostKey(host)
	server, opens, requests, err := ssh.NewServerConn(conn, cfg)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	go func() {
		for open := range opens {
			_ = open.Reject(ssh.Prohibited, "")
		}
	}()
	for payload := range notices {
		_, _, _ = server.SendRequest(dial.FeaturesNotice, false, payload)
	}
}

// A client believes what the proxy says of the node until the node says it itself. It ignores what it cannot
// read.
func TestTheNodesOwnFeaturesCount(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, authorityKey, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		authority, err := ssh.NewSignerFromKey(authorityKey)
		if err != nil {
			t.Fatal(err)
		}
		hostKey, hostCert := newCertificate(t, ssh.HostCert, authority)
		plain, err := ssh.NewSignerFromKey(hostKey)
		if err != nil {
			t.Fatal(err)
		}
		host, err := ssh.NewCertSigner(hostCert, plain)
		if err != nil {
			t.Fatal(err)
		}
		userKey, userCert := newCertificate(t, ssh.UserCert, nil)
		near, far := testnet.Pipe()
		notices := make(chan []byte)
		go serveNotices(far, host, notices)
		proxySays := wire.Features{"of-the-proxy"}
		client, err := Connect(t.Context(), near, Config{
			Node:            "web-1",
			Login:           "ubuntu",
			Key:             userKey,
			Cert:            userCert,
			HostAuthorities: []ssh.PublicKey{authority.PublicKey()},
			Now:             time.Now,
			NodeFeatures:    func() wire.Features { return proxySays },
		})
		if err != nil {
			t.Fatal(err)
		}
		nodeSays := wire.Features{dial.EarlyRequests, "of-a-later-release"}
		for _, tt := range []struct {
			name   string
			notice []byte // nil: none
			want   wire.Features
		}{
			{"before the node says anything", nil, proxySays},
			{"an unreadable list", []byte(`{"v":2}`), proxySays},
			{"the node's list", dial.MarshalFeatures(nodeSays), nodeSays},
			{"an unreadable list after that", []byte("{"), nodeSays},
			{"an empty list", dial.MarshalFeatures(nil), nil},
		} {
			if tt.notice != nil {
				notices <- tt.notice
			}
			synctest.Wait()
			if got := client.Features(); !slices.Equal(got, tt.want) {
				t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
			}
		}
		close(notices)
		_ = client.Close()
		synctest.Wait()
	})
}
