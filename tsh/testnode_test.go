package tsh_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/wire"
)

// testNode is the SSH server of a node.
type testNode struct {
	id        identity.MachineID // in its host certificate
	cert      ssh.Signer
	refuse    string // if not empty, nobody can log in, and this banner says why
	command   func(cmd string, ch ssh.Channel) ssh.Signal
	status    uint32 // exit status of commands
	root      string // the home folder that sftp shows; empty: sftp is refused
	events    chan string
	endNotice string               // if not empty, it ends every connection at once with this notice
	features  wire.Features        // of its SSH server, which the proxy tells clients
	forward   func(ssh.NewChannel) // serves channels other than sessions; nil: they are refused
	request   func(*ssh.Request)   // serves global requests; nil: they are refused
}

// serve serves one connection.
func (n *testNode) serve(tc *testCluster, c net.Conn) {
	cfg := &ssh.ServerConfig{
		PublicKeyCallback: func(m ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			authorities := []ssh.PublicKey{tc.UserAuthority()}
			u, err := identity.VerifySSHUser(key, clusterName, authorities, c.RemoteAddr(), time.Now())
			if err == nil && !u.HasLogin(identity.Login(m.User())) {
				err = errors.New("no such login")
			}
			if err == nil && n.refuse != "" {
				err = &ssh.BannerError{Err: errors.New("refused"), Message: n.refuse}
			}
			return nil, err
		},
	}
	cfg.AddHostKey(n.cert)
	conn, chans, reqs, err := ssh.NewServerConn(c, cfg)
	if err != nil {
		return
	}
	defer conn.Close()
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { n.serveGlobal(reqs) })
	if n.endNotice != "" {
		_, _, _ = conn.SendRequest(dial.EndNotice, false, []byte(n.endNotice))
		_ = conn.Close()
		return
	}
	for nc := range chans {
		if nc.ChannelType() != "session" {
			n.serveChannel(&all, nc)
			continue
		}
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		all.Go(func() { n.serveSession(conn.User(), ch, n.sessionRequests(nc, reqs)) })
	}
}

// sessionRequests returns the requests of a session: first those that came with the channel, for a server
// with that feature, then reqs.
func (n *testNode) sessionRequests(nc ssh.NewChannel, reqs <-chan *ssh.Request) <-chan *ssh.Request {
	if !n.features.Has(dial.EarlyRequests) {
		if len(nc.ExtraData()) > 0 {
			panic("early requests were sent to a server that does not read them")
		}
		return reqs
	}
	early, err := dial.ParseEarlyRequests(nc.ExtraData())
	if err != nil {
		panic(err)
	}
	all := make(chan *ssh.Request, len(early))
	for _, a := range early {
		all <- &ssh.Request{Type: a.Type, Payload: a.Payload}
	}
	go func() {
		defer close(all)
		for r := range reqs {
			all <- r
		}
	}()
	return all
}

func (n *testNode) serveGlobal(reqs <-chan *ssh.Request) {
	for r := range reqs {
		if n.request != nil && r.Type != "keepalive@openssh.com" {
			n.request(r)
		} else {
			_ = r.Reply(false, nil)
		}
	}
}

func (n *testNode) serveChannel(all *sync.WaitGroup, nc ssh.NewChannel) {
	if n.forward == nil {
		_ = nc.Reject(ssh.Prohibited, "no role of alice allows "+nc.ChannelType())
		return
	}
	all.Go(func() { n.forward(nc) })
}

func (n *testNode) serveSession(user string, ch ssh.Channel, reqs <-chan *ssh.Request) {
	defer ch.Close()
	env := map[string]string{"USER": user}
	for r := range reqs {
		var s struct{ Text string }
		_ = ssh.Unmarshal(r.Payload, &s)
		switch r.Type {
		case "env":
			var kv struct{ Name, Value string }
			_ = ssh.Unmarshal(r.Payload, &kv)
			env[kv.Name] = kv.Value
			_ = r.Reply(true, nil)
		case "pty-req":
			env["TERM"] = s.Text
			_ = r.Reply(true, nil)
		case "subsystem":
			if n.root == "" {
				_, _ = io.WriteString(ch.Stderr(), "text for people\n")
				payload := []byte(object("access-denied",
					"no role of alice allows sftp as alice on this node", "ask for one that does"))
				_, _ = ch.SendRequest(dial.ProgramFault, false, payload)
			}
			_ = r.Reply(s.Text == "sftp" && n.root != "", nil)
			if n.root != "" {
				n.serveSFTP(ch)
				return
			}
		case "exec", "shell":
			_ = r.Reply(true, nil)
			go n.watch(reqs)
			n.run(s.Text, env, ch)
			return
		default:
			_ = r.Reply(false, nil)
		}
	}
}

// watch reports signals and window sizes on events while a command runs. It ends with the channel.
func (n *testNode) watch(reqs <-chan *ssh.Request) {
	for r := range reqs {
		_ = r.Reply(false, nil)
		if n.events == nil {
			continue
		}
		switch r.Type {
		case "signal":
			var s struct{ Name string }
			_ = ssh.Unmarshal(r.Payload, &s)
			n.events <- "signal " + s.Name
		case "window-change":
			var s struct{ Columns, Rows, Width, Height uint32 }
			_ = ssh.Unmarshal(r.Payload, &s)
			n.events <- fmt.Sprintf("size %dx%d", s.Columns, s.Rows)
		}
	}
}

func (n *testNode) serveSFTP(ch ssh.Channel) {
	srv, err := sftp.NewServer(ch, sftp.WithServerWorkingDirectory(n.root))
	if err == nil {
		_ = srv.Serve()
		_ = srv.Close()
	}
}

// run runs a command: n.command, or else one that prints its command line, input and environment as JSON.
func (n *testNode) run(cmd string, env map[string]string, ch ssh.Channel) {
	if n.command != nil {
		if sig := n.command(cmd, ch); sig != "" {
			_, _ = ch.SendRequest("exit-signal", false, ssh.Marshal(struct {
				Name      string
				Core      bool
				Msg, Lang string
			}{string(sig), false, "", ""}))
			return
		}
	} else {
		in, _ := io.ReadAll(ch)
		_ = json.NewEncoder(ch).Encode(map[string]any{"cmd": cmd, "in": string(in), "env": env})
		_, _ = io.WriteString(ch.Stderr(), "oops\n")
	}
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{n.status}))
}

// object returns a node's fault as tsh reads it.
func object(code, msg, remedy string) string {
	f := &fault.Error{Code: code, Kind: fault.Denied, Msg: msg, Remedy: remedy}
	return string(fault.MarshalObject(f, dial.MaxFaultBytes))
}
