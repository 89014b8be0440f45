// Package audit answers: what is an audit event?
//
// Every security-relevant fact has a code of its own, registered here once, so that searches and alerts never
// depend on wording.
package audit

import (
	"fmt"
	"strings"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
)

// Version is the format of events that this code writes.
const Version = 1

// Code names a kind of event. Codes are append-only and never reused.
type Code string

const (
	LoginSucceeded   Code = "TH1001"
	LoginRefused     Code = "TH1002" // after the provider identified the user
	FactorEnrolled   Code = "TH1003"
	FactorLocked     Code = "TH1004"
	RecoveryUsed     Code = "TH1005"
	CertIssued       Code = "TH2001"
	CertRenewed      Code = "TH2002"
	MachineJoined    Code = "TH2003"
	JoinRefused      Code = "TH2004"
	SessionStarted   Code = "TH3001"
	SessionEnded     Code = "TH3002"
	SessionRefused   Code = "TH3003"
	ForwardStarted   Code = "TH3004"
	ResourceApplied  Code = "TH4001"
	ResourceRemoved  Code = "TH4002"
	ResourceRefused  Code = "TH4003"
	TokenCreated     Code = "TH4004"
	ClusterCreated   Code = "TH5001"
	AuthStarted      Code = "TH5002"
	NodeConnected    Code = "TH6001"
	NodeDisconnected Code = "TH6002"
)

// Descriptions says what each registered code stands for. It is the registry: Check refuses other codes.
var Descriptions = map[Code]string{
	LoginSucceeded:   "a user logged in with provider and second factor",
	LoginRefused:     "a login was refused after the provider identified the user",
	FactorEnrolled:   "a second factor was enrolled",
	FactorLocked:     "a second factor was locked after wrong codes",
	RecoveryUsed:     "a recovery code was used in place of the second factor",
	CertIssued:       "certificates were issued",
	CertRenewed:      "a machine's certificates were renewed",
	MachineJoined:    "a machine joined the cluster",
	JoinRefused:      "a machine was refused whose join token was once valid",
	SessionStarted:   "a session started on a node",
	SessionEnded:     "a session ended on a node",
	SessionRefused:   "a node refused a user",
	ForwardStarted:   "a port, socket or SSH agent was forwarded through a node",
	ResourceApplied:  "a resource was created or changed",
	ResourceRemoved:  "a resource was removed",
	ResourceRefused:  "a change of a resource was refused",
	TokenCreated:     "a join token was created",
	ClusterCreated:   "the cluster was created",
	AuthStarted:      "an auth replica started",
	NodeConnected:    "a node attached to a proxy",
	NodeDisconnected: "a node detached from a proxy",
}

// Event is one fact. Only the auth service stores events. Nodes and proxies send theirs to it, and it writes
// the sender into each: a node into Machine and MachineID, a proxy into Proxy.
type Event struct {
	V         int                `json:"v"` // the format: Version
	Code      Code               `json:"code"`
	ID        string             `json:"id"`   // 32 hex digits; an event that is sent twice is stored once
	Time      time.Time          `json:"time"` // by the clock of the machine where it happened
	User      string             `json:"user,omitempty"`
	Subject   string             `json:"subject,omitempty"` // connector/subject: the user behind the name
	LoginID   identity.LoginID   `json:"login_id,omitempty"`
	Machine   string             `json:"machine,omitempty"` // the node, proxy or replica, by name
	MachineID identity.MachineID `json:"machine_id,omitempty"`
	Login     identity.Login     `json:"login,omitempty"`
	Session   string             `json:"session,omitempty"`
	From      string             `json:"from,omitempty"`  // the client's address as the proxy saw it
	Proxy     string             `json:"proxy,omitempty"` // the proxy that the client came through
	Rule      string             `json:"rule,omitempty"`
	Reason    string             `json:"reason,omitempty"`
	Fields    map[string]string  `json:"fields,omitempty"` // what else an event of this code says
}

// MaxFields and MaxText bound an event that another machine sent. MaxText is in bytes, for each text and for
// each key and value of Fields.
const (
	MaxFields = 32
	MaxText   = 1024
)

// truncatedBytes is how much Truncate keeps, in bytes. It is less than MaxText, so that a writer may add to
// it.
const truncatedBytes = 512

// Truncate shortens a text that another program chose, so that it fits into an event. It cuts at a whole
// character and marks the cut by an ellipsis.
func Truncate(s string) string {
	if len(s) <= truncatedBytes {
		return s
	}
	return strings.ToValidUTF8(s[:truncatedBytes], "") + "…"
}

// NewEvent makes an event with the code about who, a user or a machine. The caller sets the ID, and the
// fields that the code has.
func NewEvent(code Code, who identity.Identity, now time.Time) Event {
	e := Event{V: Version, Code: code, Time: now.UTC()}
	if who.Kind == identity.User {
		e.User, e.Subject, e.LoginID = who.Name, who.Connector+"/"+who.Subject, who.LoginID
	} else {
		e.Machine, e.MachineID = who.Name, who.ID
	}
	return e
}

// Check returns an error for an event with an unregistered code, without id or time, or with more or longer
// texts than MaxFields and MaxText allow. The event may come from another machine: errors contain at most 20
// bytes of it.
func (e Event) Check() error {
	if _, ok := Descriptions[e.Code]; !ok {
		return fmt.Errorf("event code %.20q is not registered", e.Code)
	}
	if len(e.ID) != 32 || e.Time.IsZero() {
		return fmt.Errorf("event has no id or no time")
	}
	if len(e.Fields) > MaxFields {
		return fmt.Errorf("event has %d fields, more than %d", len(e.Fields), MaxFields)
	}
	for _, s := range []string{
		e.User, e.Subject, string(e.LoginID), e.Machine, string(e.MachineID), string(e.Login),
		e.Session, e.From, e.Proxy, e.Rule, e.Reason,
	} {
		if len(s) > MaxText {
			return fmt.Errorf("event has a text of %d bytes, more than %d", len(s), MaxText)
		}
	}
	for k, v := range e.Fields {
		if len(k) > MaxText || len(v) > MaxText {
			return fmt.Errorf("event field %.20q is larger than %d bytes", k, MaxText)
		}
	}
	return nil
}
