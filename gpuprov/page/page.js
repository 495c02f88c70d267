"use strict";
{
  // Every text of the data reaches the page by textContent or as an attribute's value, never as HTML.
  const data = JSON.parse(document.getElementById("data").textContent);
  const SHOWN_ROWS = 1000;
  const SHOWN_ITEMS = 25;
  const byId = (id) => document.getElementById(id);
  const collator = new Intl.Collator("en", { numeric: true });
  const number = new Intl.NumberFormat("en");
  const counted = (count, noun) => `${number.format(count)} ${noun}${count === 1 ? "" : "s"}`;

  // Make an element. Properties named on… are listeners; others are attributes, and those without a value are left out.
  function make(tag, properties, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties ?? {})) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== undefined && value !== false) element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== undefined && child !== ""));
    return element;
  }

  const mark = (tone, text) => make("span", { class: `mark ${tone}` }, text);

  // ---- The hosts that match

  const hosts = data.hosts;
  const statuses = new Map(data.statuses.map((one) => [one.name, one]));
  const chosen = new Map(); // facet: {value, label}
  let words = [];

  // What a facet says of a host: one value, or the indexes of its findings, changes, ….
  const said = (host, facet) => (facet === "status" ? host.status : host.facets[facet] ?? host.items[facet] ?? "");

  function searchable(host) {
    if (host.text === undefined) {
      const texts = [host.name, statuses.get(host.status).label, ...Object.values(host.facets), ...host.left];
      for (const [kind, indexes] of Object.entries(host.items)) {
        for (const index of indexes) texts.push(...data.groups[kind][index].texts);
      }
      host.text = texts.join("\n").toLowerCase();
    }
    return host.text;
  }

  function matches(host) {
    for (const [facet, { value }] of chosen) {
      const of_host = said(host, facet);
      if (Array.isArray(of_host) ? !of_host.some((index) => value.includes(index)) : of_host !== value) return false;
    }
    return words.every((word) => searchable(host).includes(word));
  }

  // ---- The table of hosts

  const count = (kind) => ({ value: (host) => host.items[kind].length, figure: true });
  const columns = [
    { label: "Host", value: (host) => host.order },
    { label: "Status", value: (host) => host.rank, cell: (host) => mark(statuses.get(host.status).tone, statuses.get(host.status).label) },
    ...data.facets.filter((facet) => facet.column).map(({ name, label, wide }) => ({
      label, wide, value: (host) => host.facets[name] ?? "", cell: (host) => host.facets[name] ?? "",
    })),
    { label: "Pending", ...count("pending"), wide: "wide" },
    { label: data.changes, ...count("changes"), wide: "wide" },
    { label: "Findings", ...count("findings") },
    {
      label: "Checks", figure: true, wide: "wider",
      value: (host) => -host.items.checks.filter((index) => !data.groups.checks[index].ok).length,
      cell: (host) => {
        const all = host.items.checks.length;
        return all ? `${all - host.items.checks.filter((index) => !data.groups.checks[index].ok).length} of ${all}` : "";
      },
    },
    { label: "Seconds", figure: true, wide: "wider", value: (host) => host.seconds, cell: (host) => host.seconds.toFixed(0) },
  ].filter((column) => column.label === "Host" || hosts.some((host) => (column.label === "Checks" ? host.items.checks.length : column.value(host))));
  let sorted = { column: columns[0], descending: false };
  let limit = SHOWN_ROWS;

  function headings() {
    byId("columns").replaceChildren(...columns.map((column) => {
      const order = column === sorted.column ? (sorted.descending ? "descending" : "ascending") : undefined;
      const sort = () => {
        // Counts are of interest from the highest down.
        const first = column.figure && column.label !== "Checks";
        sorted = { column, descending: column === sorted.column ? !sorted.descending : first };
        headings();
        byId("columns").children[columns.indexOf(column)].firstChild.focus();
        show();
      };
      return make(
        "th", { scope: "col", class: classes(column), "aria-sort": order }, make("button", { type: "button", onclick: sort }, column.label),
      );
    }));
  }

  const classes = (column) => [column.wide, column.figure && "figure"].filter(Boolean).join(" ") || undefined;

  function row(host) {
    if (host.row) return host.row;
    const id = `host-${host.order}`;
    const button = make("button", { type: "button", class: "plain", "aria-expanded": "false", onclick: toggle }, host.name);
    function toggle() {
      const open = button.getAttribute("aria-expanded") === "true";
      if (!host.details) {
        host.details = make("tr", { id, class: "details" }, make("td", { colspan: columns.length }, ...details(host)));
        button.setAttribute("aria-controls", id);
      }
      button.setAttribute("aria-expanded", String(!open));
      if (open) host.details.remove();
      else host.row.after(host.details);
    }
    const cells = columns.slice(1).map((column) => {
      const value = column.cell ? column.cell(host) : column.value(host) || "";
      return make("td", { class: classes(column) }, typeof value === "number" ? number.format(value) : value);
    });
    host.row = make("tr", undefined, make("th", { scope: "row" }, button), ...cells);
    return host.row;
  }

  // What is known of one host. It is made when it is first shown.
  function details(host) {
    const parts = [];
    const part = (title, ...children) => parts.push(make("h3", undefined, title), ...children);
    const list = (items) => make("ul", undefined, ...items.map((item) => make("li", undefined, ...item)));
    const of_host = (kind) => host.items[kind].map((index) => data.groups[kind][index]);
    const lists = (kind, title, item) => of_host(kind).length && part(title, list(of_host(kind).map(item)));
    const change = (one) => [make("strong", undefined, one.subject), " ", make("code", undefined, one.text), disruption(one)];
    for (const one of of_host("errors")) part("Error", error(one));
    if (of_host("findings").length) part("Findings", ...of_host("findings").map((one) => finding(one)));
    lists("pending", "Pending changes", change);
    lists("changes", data.changes, change);
    lists("left_out", "Left out by tags", change);
    lists("notes", "Notes", (one) => [one.text]);
    lists("checks", "Verification", (one) => [
      mark(one.ok ? "good" : "bad", one.ok ? "passed" : "failed"), ` ${one.name}: `, make("span", { class: "dim" }, one.detail ?? ""),
    ]);
    if (host.steps.length) {
      part("Steps", list(host.steps.map(([name, seconds, changed]) => [
        `${name} `, make("span", { class: "dim" }, `${seconds.toFixed(1)} s, ${changed ? "changed" : "as before"}`),
      ])));
    }
    if (host.left.length) part("Left on the host", list(host.left.map((text) => [text])));
    const facts = Object.entries(host.about);
    if (facts.length) part("Host", make("dl", undefined, ...terms(facts)));
    return parts.length ? parts : [make("p", undefined, "Nothing is known of this host.")];
  }

  const terms = (pairs) => pairs.flatMap(([name, text]) => [make("dt", undefined, name), make("dd", undefined, text)]);

  let shown = hosts;

  function show() {
    const direction = sorted.descending ? -1 : 1;
    const compare = (one, other) => (typeof one === "number" ? one - other : collator.compare(one, other));
    shown = hosts.filter(matches).sort(
      (one, other) => direction * compare(sorted.column.value(one), sorted.column.value(other)) || one.order - other.order,
    );
    const rows = shown.slice(0, limit).flatMap((host) => {
      const above = row(host);
      const open = above.firstChild.firstChild.getAttribute("aria-expanded") === "true";
      return open ? [above, host.details] : [above];
    });
    byId("rows").replaceChildren(...rows);
    byId("count").textContent = shown.length === hosts.length ? counted(hosts.length, "host") : `${number.format(shown.length)} of ${counted(hosts.length, "host")}`;
    byId("more").hidden = shown.length <= limit;
    byId("more").textContent = `Show all ${counted(shown.length, "host")}`;
    byId("clear").hidden = !chosen.size && !words.length;
    byId("chips").replaceChildren(...[...chosen].map(([facet, { label }]) => make(
      "button", { type: "button", class: "chip", "aria-label": `Remove the filter ${label}`, onclick: () => { choose(facet); byId("search").focus(); } }, label,
    )));
    for (const select of document.querySelectorAll("#filters select")) select.value = chosen.get(select.name)?.value ?? "";
    for (const button of byId("statuses").querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(chosen.get("status")?.value === button.value));
    }
  }

  // Filter by a facet, or no longer by it.
  function choose(facet, value, label) {
    if (value === undefined) chosen.delete(facet);
    else chosen.set(facet, { value, label });
    limit = SHOWN_ROWS;
    show();
  }

  function only(facet, value, label) {
    chosen.clear();
    byId("search").value = "";
    words = [];
    choose(facet, value, label);
    byId("hosts").focus({ preventScroll: true });
    byId("hosts").scrollIntoView();
  }

  // ---- What is said of several hosts

  // The button that shows the hosts of an item, and their names as ranges.
  function where(item, facet, value, label) {
    const names = item.hosts.length > 160 ? `${item.hosts.slice(0, item.hosts.lastIndexOf(",", 150))}, …` : item.hosts;
    const button = make("button", { type: "button", class: "plain", onclick: () => only(facet, value, label) }, counted(item.count, "host"));
    return make("span", { class: "hosts-of" }, button, make("span", { class: "dim names" }, `: ${names}`));
  }

  const disruption = (one) => (one.disruption === "none" ? "" : make("span", { class: "dim" }, ` (${one.disruption})`));

  function error(one, hosts_of) {
    return make(
      "div", { class: "item" },
      make("p", undefined, mark("bad", one.kind), " at: ", make("span", { class: "what" }, one.task)),
      make("p", { class: "message" }, one.message),
      one.hint ? make("dl", undefined, ...terms([["What to do", one.hint]])) : "",
      hosts_of ?? "",
    );
  }

  function finding(one, hosts_of) {
    return make(
      "div", { class: "item" },
      make("p", undefined, mark(one.severity, one.severity), " ", make("span", { class: "what" }, one.name)),
      make("p", undefined, one.message),
      make(
        "dl", undefined,
        make("dt", undefined, "Why"), make("dd", undefined, one.why),
        make("dt", undefined, "Cure"), make("dd", undefined, make("code", { class: "cure" }, one.cure)),
      ),
      hosts_of ?? "",
    );
  }

  function table(headings, rows) {
    const head = headings.map(([label, kind]) => make("th", { scope: "col", class: kind }, label));
    const body = rows.map((cells) => make("tr", undefined, ...cells.map((cell, index) => (
      cell?.tagName === "TH" || cell === undefined ? cell : make(index ? "td" : "th", { class: headings[index][1], scope: index ? undefined : "row" }, cell)
    )).filter(Boolean)));
    return make("table", undefined, make("thead", undefined, make("tr", undefined, ...head)), make("tbody", undefined, ...body));
  }

  // Fill a section from its items: the first ones, and a button for the others.
  function section(id, items, content, numbered = true) {
    if (!items.length) return;
    const place = make("div");
    const button = make("button", { type: "button", onclick: () => { fill(items.length); place.focus(); } }, `Show all ${items.length}`);
    const fill = (length) => {
      place.replaceChildren(...content(items.slice(0, length)));
      button.hidden = length >= items.length;
    };
    place.tabIndex = -1;
    fill(SHOWN_ITEMS);
    byId(id).append(place, button);
    byId(id).hidden = false;
    if (numbered) byId(`${id}-title`).append(" ", make("span", { class: "number" }, number.format(items.length)));
  }

  const each = (items, facet, view, label) => items.map((one) => view(one, make("p", undefined, where(one, facet, [one.index], label(one)))));
  const changes = (facet, title) => (items) => [table(
    [["What"], ["Change"], ["Role", "wide"], ["Hosts"]],
    items.map((one) => [
      one.subject,
      make("span", undefined, make("code", undefined, one.text), disruption(one)),
      one.role,
      where(one, facet, [one.index], `${title}: ${one.subject} ${one.text}`),
    ]),
  )];

  // First how checks failed, then on how many hosts each passed.
  function checks() {
    const of_name = new Map();
    for (const one of data.groups.checks) {
      const check = of_name.get(one.name) ?? { name: one.name, passed: 0, failed: 0, indexes: [] };
      check[one.ok ? "passed" : "failed"] += one.count;
      if (!one.ok) check.indexes.push(one.index);
      of_name.set(one.name, check);
    }
    const number_of = (one) => one.failed && make(
      "button", { type: "button", class: "plain", onclick: () => only("checks", one.indexes, `Failed: ${one.name}`) }, counted(one.failed, "host"),
    );
    const rows = [...of_name.values()].sort((one, other) => other.failed - one.failed);
    const any = rows.some((one) => one.failed);
    const failed = (one, hosts_of) => make(
      "div", { class: "item" },
      make("p", undefined, mark("bad", "failed"), " ", make("span", { class: "what" }, one.name)),
      make("p", { class: "message" }, one.detail ?? ""), hosts_of,
    );
    section("checks", data.groups.checks.filter((one) => !one.ok), (items) => each(items, "checks", failed, (one) => `Failed: ${one.name}`), false);
    section("checks", rows, (items) => [table(
      [["Check"], ["Passed on", "figure"], ...(any ? [["Failed on", "figure"]] : [])],
      items.map((one) => [one.name, one.passed ? counted(one.passed, "host") : "", ...(any ? [number_of(one) || ""] : [])]),
    )], false);
  }

  function meter(value, most) {
    const bar = make("span");
    bar.style.width = `${Math.max(1, (100 * value) / most)}%`;
    return make("span", { class: "meter", "aria-hidden": "true" }, bar);
  }

  // ---- The page

  byId("summary").textContent = data.summary;
  byId("when").textContent = data.when;
  for (const one of data.statuses) {
    const share = make("span", { class: one.tone });
    share.style.flexGrow = one.count;
    byId("shares").append(share);
    const press = () => (chosen.get("status")?.value === one.name ? choose("status") : choose("status", one.name, one.label));
    byId("statuses").append(make("li", undefined, make(
      "button", { type: "button", value: one.name, "aria-pressed": "false", onclick: press },
      make("strong", undefined, number.format(one.count)), mark(one.tone, one.label),
    )));
  }
  byId("changes-title").textContent = data.changes;
  section("errors", data.groups.errors, (items) => each(items, "errors", error, (one) => `Error: ${one.message.split("\n")[0]}`));
  section("findings", data.groups.findings, (items) => each(items, "findings", finding, (one) => `Finding: ${one.name}`));
  section("pending", data.groups.pending, changes("pending", "Pending"));
  section("changes", data.groups.changes, changes("changes", data.changes));
  section("notes", data.groups.notes, (items) => each(
    items, "notes", (one, hosts_of) => make("div", { class: "item" }, make("p", undefined, one.text), hosts_of), (one) => `Note: ${one.text}`,
  ));
  checks();
  section("versions", data.facets, (items) => [table(
    [["What"], ["Version"], ["Hosts"], ["Share", "wide"]],
    items.flatMap(({ name, label, versions }) => versions.map((one, index) => [
      index ? undefined : make("th", { scope: "row", rowspan: versions.length }, label),
      one.version,
      where(one, name, one.version, `${label}: ${one.version}`),
      meter(one.count, hosts.length),
    ])),
  )], false);
  const longest = Math.max(...data.steps.map((one) => one.most));
  section("durations", data.steps, (items) => [table(
    [["Step"], ["Hosts", "figure"], ["Median", "figure"], ["Longest", "figure"], ["Compared", "wide"]],
    items.map((one) => [
      one.name, number.format(one.count), `${one.median.toFixed(1)} s`, `${one.most.toFixed(1)} s`, meter(one.most, longest),
    ]),
  )], false);
  byId("about").append(...terms(data.about));

  const options = [
    { name: "status", label: "Status", values: data.statuses.map((one) => [one.name, one.label]) },
    ...data.facets.filter((facet) => facet.column).map(({ name, label, versions }) => ({
      name, label, values: versions.map((one) => [one.version, one.version]),
    })),
  ];
  for (const { name, label, values } of options.filter((one) => one.values.length > 1)) {
    const select = make("select", { name }, make("option", { value: "" }, "any"), ...values.map(([value, text]) => make("option", { value }, text)));
    select.addEventListener("change", () => {
      if (select.value) choose(name, select.value, `${label}: ${select.selectedOptions[0].textContent}`);
      else choose(name);
    });
    byId("filters").append(make("label", undefined, label, select));
  }
  byId("search").addEventListener("input", (event) => {
    words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    limit = SHOWN_ROWS;
    show();
  });
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("clear").addEventListener("click", () => {
    chosen.clear();
    words = [];
    byId("search").value = "";
    show();
    byId("search").focus();
  });
  byId("more").addEventListener("click", () => {
    const first = limit;
    limit = Infinity;
    show();
    shown[first].row.querySelector("button").focus();
  });
  headings();
  show();
  for (const part of document.querySelectorAll("main > section:not([hidden])")) {
    byId("sections").append(make("li", undefined, make("a", { href: `#${part.id}` }, part.querySelector("h2").textContent)));
  }
}
