package tsh

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/audit"
	"github.com/threshold-access/threshold/internal/authrpc"
)

// listing is how a kind of resource looks in a table: its headings, and a resource's cells under them.
type listing struct {
	heads []string
	cells func(authrpc.Resource) []string
}

// listings has every kind. Cells are cleaned where the table is written.
var listings = map[access.Resource]listing{
	access.Roles: {[]string{"NAME", "ALLOW", "DENY"}, func(r authrpc.Resource) []string {
		var role access.Role
		read(r.Spec, &role)
		return []string{r.Metadata.Name, summarizeGrants(role.Allow), summarizeGrants(role.Deny)}
	}},
	access.Connectors: {[]string{"NAME", "TYPE", "ISSUER", "CLIENT"}, func(r authrpc.Resource) []string {
		var c struct{ Type, Issuer, Client_ID string }
		read(r.Spec, &c)
		return []string{r.Metadata.Name, c.Type, c.Issuer, c.Client_ID}
	}},
	access.Users: {
		[]string{"NAME", "PERSON", "EXTRA ROLES", "FACTOR", "LAST LOGIN"},
		func(r authrpc.Resource) []string {
			var spec struct{ Roles []string }
			var status struct {
				Name          string
				Last_Login    time.Time
				Second_Factor bool
			}
			read(r.Spec, &spec)
			read(r.Status, &status)
			factor := "none"
			if status.Second_Factor {
				factor = "enrolled"
			}
			return []string{
				r.Metadata.Name,
				status.Name,
				strings.Join(spec.Roles, ","),
				factor,
				moment(status.Last_Login),
			}
		},
	},
	access.Tokens: {
		[]string{"NAME", "FOR", "LABELS", "STATE", "MADE BY", "ENDS"},
		func(r authrpc.Resource) []string {
			var spec struct {
				Kind   string
				Labels map[string]string
			}
			var status struct {
				State, By string
				Expires   time.Time
			}
			read(r.Spec, &spec)
			read(r.Status, &status)
			return []string{
				r.Metadata.Name,
				spec.Kind,
				labelText(spec.Labels),
				status.State,
				status.By,
				moment(status.Expires),
			}
		},
	},
	access.Machines: {
		[]string{"NAME", "KIND", "LABELS", "JOINED", "RENEWED"},
		func(r authrpc.Resource) []string {
			var status struct {
				Kind             string
				Created, Renewed time.Time
			}
			read(r.Status, &status)
			return []string{
				r.Metadata.Name,
				status.Kind,
				labelText(r.Metadata.Labels),
				moment(status.Created),
				moment(status.Renewed),
			}
		},
	},
	access.Events: {[]string{"NUMBER", "TIME", "CODE", "WHO", "WHERE", "WHAT"}, eventCells},
}

// eventCells is a line of the audit log as a person reads it.
func eventCells(r authrpc.Resource) []string {
	var e audit.Event
	read(r.Spec, &e)
	what := audit.Descriptions[e.Code]
	if what == "" {
		what = "of a newer version"
	}
	where := e.Machine
	if e.Login != "" {
		where = string(e.Login) + "@" + where
	}
	return []string{r.Metadata.Name, moment(e.Time), string(e.Code), e.User, where, what}
}

// writeListing writes the table of a kind. Empty cells become "-".
func writeListing(w io.Writer, kind access.Resource, list []authrpc.Resource) error {
	l := listings[kind]
	var rows [][]string
	for _, r := range list {
		rows = append(rows, l.cells(r))
	}
	return table(w, l.heads, rows)
}

// read takes what it knows of a document. One of a newer version shows what is left of it.
func read(raw json.RawMessage, into any) { _ = json.Unmarshal(raw, into) }

func moment(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

// summarizeGrants says in a line what grants are about: "root on env=prod|test: shell,exec; roles: get".
func summarizeGrants(grants []access.Grant) string {
	var out []string
	for _, g := range grants {
		about := strings.Join(g.Resources, ",")
		if len(g.Nodes) > 0 {
			about = on(g)
		}
		if len(g.Actions) > 0 {
			about += ": " + strings.Join(g.Actions, ",")
		}
		out = append(out, about)
	}
	const limit = 72
	if s := []rune(strings.Join(out, "; ")); len(s) > limit {
		return string(s[:limit-1]) + "…"
	}
	return strings.Join(out, "; ")
}

func on(g access.Grant) string {
	var nodes []string
	for key, values := range g.Nodes {
		if key == "*" {
			nodes = append(nodes, "every node")
			continue
		}
		nodes = append(nodes, fmt.Sprintf("%s=%s", key, strings.Join(values, "|")))
	}
	slices.Sort(nodes)
	where := strings.Join(nodes, " ")
	if len(g.Logins) == 0 {
		return where
	}
	return strings.Join(g.Logins, ",") + " on " + where
}
