package demo

import "os"

// factsFile is the name of the file that tells scripts about the demo.
const factsFile = "demo.json"

// factsVersion is the version of the file. It grows by fields, which readers may ignore.
const factsVersion = 1

// facts are the content of demo.json.
type facts struct {
	V         int            `json:"v"`
	Cluster   string         `json:"cluster"`
	CAFile    string         `json:"ca_file"`
	Proxies   []proxyFacts   `json:"proxies"`
	Nodes     []nodeFacts    `json:"nodes"`
	Processes []processFacts `json:"processes"`
	Users     []userFacts    `json:"users"`
	Login     string         `json:"login"` // an account on the nodes
}

type proxyFacts struct {
	Name    string `json:"name"`
	Address string `json:"address"` // host:port
}

type nodeFacts struct {
	Name string `json:"name"`
}

// processFacts is one process of the demo, with the parts that run in it.
type processFacts struct {
	PID   int      `json:"pid"`
	Parts []string `json:"parts"` // auth, proxy or node
}

type userFacts struct {
	Email      string   `json:"email"`
	Password   string   `json:"password"`
	TOTPSecret string   `json:"totp_secret"`
	Roles      []string `json:"roles"`
}

// facts returns what scripts need to use the demo.
func (c *cluster) facts() facts {
	out := facts{
		V:         factsVersion,
		Cluster:   clusterName,
		CAFile:    c.caFile(),
		Proxies:   []proxyFacts{{Name: proxyName, Address: c.public}},
		Nodes:     []nodeFacts{{Name: nodeName}},
		Processes: []processFacts{{PID: os.Getpid(), Parts: []string{"auth", "proxy", "node"}}},
		Login:     c.state.Account,
	}
	for _, u := range c.state.Users {
		out.Users = append(out.Users, userFacts{
			Email: u.Email, Password: u.Password, TOTPSecret: u.TOTPSecret, Roles: u.Roles,
		})
	}
	return out
}
