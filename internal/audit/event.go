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
	LoginRefused     Code = "TH1002" // after the provider vouched; earlier refusals go to a local file
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

// Descriptions says what each registered code stands for.
var Descriptions = map[Code]string{
	LoginSucceeded:   "a person logged in with provider and second factor",
	LoginRefused:     "a login was refused after the provider vouched",
	FactorEnrolled:   "a second factor was enrolled",
	FactorLocked:     "a second factor was locked after wrong codes",
	RecoveryUsed:     "a recovery code was used in place of the second factor",
	CertIssued:       "certificates were issued",
	CertRenewed:      "a machine's certificates were renewed",
	MachineJoined:    "a machine joined the cluster",
	JoinRefused:      "a machine with a token that was once valid was refused",
	SessionStarted:   "a session started on a node",
	SessionEnded:     "a session ended on a node",
	SessionRefused:   "a node refused a person",
	ForwardStarted:   "a port, socket or agent was forwarded through a node",
	ResourceApplied:  "a resource was created or changed",
	ResourceRemoved:  "a resource was removed",
	ResourceRefused:  "work on a resource was refused",
	TokenCreated:     "a join token was created",
	ClusterCreated:   "the cluster was born",
	AuthStarted:      "an auth replica started",
	NodeConnected:    "a node attached to a proxy",
	NodeDisconnected: "a node left a proxy",
}

// Event is one fact. Only auth stores events; nodes send theirs to auth, which checks that Node is the
// sender.
type Event struct {
	V         int                `json:"v"`
	Code      Code               `json:"code"`
	ID        string             `json:"id"`   // 32 hex digits; makes sending twice harmless
	Time      time.Time          `json:"time"` // where it happened, by that machine's clock
	User      string             `json:"user,omitempty"`
	Subject   string             `json:"subject,omitempty"` // connector/subject: the user behind the name
	LoginID   identity.LoginID   `json:"login_id,omitempty"`
	Machine   string             `json:"node,omitempty"`
	MachineID identity.MachineID `json:"node_id,omitempty"`
	Login     identity.Login     `json:"login,omitempty"`
	Session   string             `json:"session,omitempty"`
	From      string             `json:"from,omitempty"`  // the client's address as the proxy saw it
	Proxy     string             `json:"proxy,omitempty"` // the proxy it came by
	Rule      string             `json:"rule,omitempty"`
	Reason    string             `json:"reason,omitempty"`
	Fields    map[string]string  `json:"fields,omitempty"` // what else this code carries
}

// MaxFields and MaxText bound an event from outside.
const (
	MaxFields = 32
	MaxText   = 1024
)

// truncatedBytes is what a text from outside keeps, in bytes. It leaves room below MaxText.
const truncatedBytes = 512

// Truncate shortens a text from outside to what an event should hold, at a whole character.
func Truncate(s string) string {
	if len(s) <= truncatedBytes {
		return s
	}
	return strings.ToValidUTF8(s[:truncatedBytes], "") + "…"
}

// NewEvent starts an event about a person.
func NewEvent(code Code, who identity.Identity, now time.Time) Event {
	e := Event{V: Version, Code: code, Time: now.UTC()}
	if who.Kind == identity.User {
		e.User, e.Subject, e.LoginID = who.Name, who.Connector+"/"+who.Subject, who.LoginID
	} else {
		e.Machine, e.MachineID = who.Name, who.ID
	}
	return e
}

// Check refuses an event with an unregistered code, no id or oversize text.
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
	for _, s := range []string{e.User, e.Subject, string(e.LoginID), e.Machine, string(e.MachineID), string(e.Login), e.Session, e.From, e.Proxy, e.Rule, e.Reason} {
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
