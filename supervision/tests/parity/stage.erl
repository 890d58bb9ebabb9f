%% Performs scenarios with OTP's own supervisor and prints what happened.
%%
%%   escript stage.erl FILE...
%%
%% The format of scenarios is described in scenario.rs, the other side in
%% perform.rs. How traces come about here:
%% - exits are the virtual machine's own trace of processes, with their reasons;
%% - starts are noted by the processes that start, on the same strictly
%%   monotonic clock;
%% - a step is over when the tree is quiet: every process that a supervisor
%%   lists is alive, no child is restarting, and every process that was started
%%   and lives is listed. Nothing waits for a while and hopes.
%% - time passes by moving the time stamps that supervisors keep of restarts.
-module(stage).
-mode(compile).
-export([main/1, init/1, start_worker/3, start_member/3, worker/4, refuse_in_init/2, log/2]).

%% Scenarios at a time; they share nothing.
-define(PARALLEL, 16).
%% A step that is not over by then never will be.
-define(STEP_MS_MAX, 30000).
%% How long a slow worker takes to stop.
-define(SLOW_MS, 20).
%% Elements of the state of supervisor.erl.
-define(PERIOD, 7).
-define(RESTARTS, 8).

main(Files) ->
    Release = list_to_integer(erlang:system_info(otp_release)),
    Release >= 24 orelse fail("OTP ~b has no significant children: OTP 24 or newer is needed", [Release]),
    ets:new(melted, [named_table, public]),
    ok = logger:remove_handler(default),
    ok = logger:add_handler(stage, ?MODULE, #{}),
    Scenarios = lists:append([scenarios(File) || File <- Files]),
    lists:foreach(fun(Text) -> io:put_chars(Text) end, in_parallel(Scenarios, [], [])),
    io:format("end ~b~n", [length(Scenarios)]).

fail(Format, Arguments) ->
    io:format(standard_error, Format ++ "~n", Arguments),
    halt(1).

%% Handlers run in the process that logs: here, the supervisor that melts down.
log(#{msg := {report, #{label := {supervisor, shutdown}, report := Report}}}, _) ->
    case proplists:get_value(reason, Report) of
        reached_max_restart_intensity -> ets:insert(melted, {self()});
        _ -> ok
    end;
log(_, _) ->
    ok.

in_parallel([], [], Done) ->
    lists:reverse(Done);
in_parallel([Next | Rest], Running, Done) when length(Running) < ?PARALLEL ->
    in_parallel(Rest, Running ++ [spawn_monitor(fun() -> exit({done, perform(Next)}) end)], Done);
in_parallel(Rest, [{Pid, Monitor} | Running], Done) ->
    receive
        {'DOWN', Monitor, process, Pid, {done, Text}} -> in_parallel(Rest, Running, [Text | Done]);
        {'DOWN', Monitor, process, Pid, Reason} -> fail("a scenario failed: ~p", [Reason])
    end.

%% ------------------------------------------------------------------ the format

scenarios(File) ->
    {ok, Binary} = file:read_file(File),
    Lines = [string:tokens(Line, " ") || Line <- string:tokens(binary_to_list(Binary), "\n")],
    collect([Words || [First | _] = Words <- Lines, hd(First) =/= $#], []).

collect([], Done) ->
    lists:reverse([{Name, lists:reverse(Tree), lists:reverse(Steps)} || {Name, Tree, Steps} <- Done]);
collect([["==", Name] | Rest], Done) ->
    collect(Rest, [{Name, [], []} | Done]);
collect([[">" | Step] | Rest], [{Name, Tree, Steps} | Done]) ->
    collect(Rest, [{Name, Tree, [Step | Steps]} | Done]);
collect([Line | Rest], [{Name, Tree, Steps} | Done]) ->
    collect(Rest, [{Name, [node_of(Line) | Tree], Steps} | Done]).

node_of(["sup", Id, Strategy, Intensity | Words]) ->
    {intensity(list_to_atom(Strategy), Intensity, Words), Id, Words};
node_of(["pool", Id, Intensity | Words]) ->
    {intensity(simple_one_for_one, Intensity, Words), Id, Words};
node_of([Kind, Id | Words]) ->
    {list_to_atom(Kind), Id, Words}.

intensity(Strategy, Text, Words) ->
    [Restarts, Period] = [list_to_integer(Number) || Number <- string:tokens(Text, "/")],
    Auto = case {lists:member("any", Words), lists:member("all", Words)} of
        {true, _} -> any_significant;
        {_, true} -> all_significant;
        _ -> never
    end,
    #{strategy => Strategy, intensity => Restarts, period => Period, auto_shutdown => Auto}.

child_spec(Table, {Kind, Id, Words}) ->
    {Type, Start} = case Kind of
        worker -> {worker, {?MODULE, start_worker, [Table, Id, manner(Words)]}};
        member -> {worker, {?MODULE, start_member, [Table, {Id, manner(Words)}]}};
        _ -> {supervisor, {supervisor, start_link, [?MODULE, {Table, Id}]}}
    end,
    Spec = #{
        id => Id,
        start => Start,
        type => Type,
        restart => choice(Words, [permanent, transient, temporary], permanent),
        significant => lists:member("significant", Words)
    },
    case shutdown(Words) of
        none -> Spec;
        Shutdown -> Spec#{shutdown => Shutdown}
    end.

choice(Words, Choices, Default) ->
    hd([Choice || Choice <- Choices, lists:member(atom_to_list(Choice), Words)] ++ [Default]).

manner(Words) ->
    choice(Words, [slow, deaf, bitter], prompt).

shutdown(Words) ->
    case {lists:member("brutal", Words), lists:member("infinity", Words), valued("timeout=", Words)} of
        {true, _, _} -> brutal_kill;
        {_, true, _} -> infinity;
        {_, _, none} -> none;
        {_, _, Ms} -> list_to_integer(Ms)
    end.

valued(Prefix, Words) ->
    case [string:prefix(Word, Prefix) || Word <- Words, string:prefix(Word, Prefix) =/= nomatch] of
        [Value] -> Value;
        [] -> none
    end.

%% ------------------------------------------------------ supervisors and workers

init({Table, Id}) ->
    enter(Table, Id),
    [{_, Tree}] = ets:lookup(Table, tree),
    [Flags] = [Flags || {Flags, Sup, _} <- Tree, Sup =:= Id, is_map(Flags)],
    Children = [Node || {Kind, Child, Words} = Node <- Tree,
        (Kind =:= member andalso Child =:= Id) orelse valued("in=", Words) =:= Id],
    {ok, {Flags, [child_spec(Table, Child) || Child <- Children]}}.

start_member(Table, {Pool, Manner}, Number) ->
    start_worker(Table, Pool ++ "/" ++ Number, Manner).

start_worker(Table, Id, Manner) ->
    case take(Table, Id) of
        "decline" -> note(Table, "decline " ++ Id), ignore;
        "error" -> note(Table, "refuse " ++ Id), {error, refused};
        "panic" -> note(Table, "refuse " ++ Id), error(refused);
        "init" -> proc_lib:start_link(?MODULE, refuse_in_init, [Table, Id]);
        none -> proc_lib:start_link(?MODULE, worker, [Table, Id, Manner, self()])
    end.

%% Takes one of what was ordered for the next starts.
take(Table, Id) ->
    case ets:lookup(Table, {order, Id}) of
        [{Key, Left, Order}] when Left > 0 -> ets:insert(Table, {Key, Left - 1, Order}), Order;
        _ -> none
    end.

refuse_in_init(Table, Id) ->
    note(Table, "refuse " ++ Id),
    exit(refused).

worker(Table, Id, Manner, Parent) ->
    process_flag(trap_exit, true),
    enter(Table, Id),
    proc_lib:init_ack({ok, self()}),
    work(Manner, Parent).

work(Manner, Parent) ->
    receive
        {order, Reason} -> exit(Reason);
        {'EXIT', Parent, shutdown} when Manner =:= slow -> timer:sleep(?SLOW_MS), exit(shutdown);
        {'EXIT', Parent, shutdown} when Manner =:= deaf -> work(Manner, Parent);
        {'EXIT', Parent, shutdown} when Manner =:= bitter -> exit(crash);
        {'EXIT', Parent, Reason} -> exit(Reason)
    end.

enter(Table, Id) ->
    ets:insert(Table, [{{pid, self()}, Id}, {{current, Id}, self()}]),
    note(Table, "start " ++ Id).

note(Table, Event) ->
    ets:insert(Table, {{note, erlang:unique_integer([monotonic])}, Event}).

%% ----------------------------------------------------------------- performances

perform({Name, Tree, Steps}) ->
    Table = ets:new(scenario, [public, ordered_set]),
    ets:insert(Table, {tree, Tree}),
    Collector = self(),
    Parent = spawn_link(fun() -> process_flag(trap_exit, true), parent(Collector) end),
    Traced = [procs, set_on_spawn, strict_monotonic_timestamp, {tracer, Collector}],
    1 = erlang:trace(Parent, true, Traced),
    Root = hd([Id || {Flags, Id, _} <- Tree, is_map(Flags)]),
    Scene = #{table => Table, parent => Parent, root => Root, name => Name},
    ["== ", Name, "\n", [played(Step, Scene) || Step <- [["start"] | Steps]]].

%% Stands above the root.
parent(Collector) ->
    receive
        {start, Arguments} ->
            Collector ! {started, supervisor:start_link(?MODULE, Arguments)};
        {shutdown, Root} ->
            exit(Root, shutdown);
        {'EXIT', _, _} ->
            ok
    end,
    parent(Collector).

played(Step, #{table := Table} = Scene) ->
    Answer = play(Step, Scene),
    Limit = erlang:monotonic_time(millisecond) + ?STEP_MS_MAX,
    Seen = quiet(Scene, Step, Limit),
    Delivered = erlang:trace_delivered(all),
    receive {trace_delivered, all, Delivered} -> ok end,
    Notes = [{At, Event} || {{note, At}, Event} <- ets:tab2list(Table)],
    [ets:delete(Table, {note, At}) || {At, _} <- Notes],
    Events = [[Event, "\n"] || {_, Event} <- lists:sort(Notes ++ exits(Table))],
    ["> ", lists:join(" ", Step), "\n", Events, Answer, ": ", Seen, "\n"].

exits(Table) ->
    receive
        {trace_ts, Pid, exit, Reason, {_, At}} ->
            case ets:lookup(Table, {pid, Pid}) of
                [{_, Id}] -> [{At, ended(Id, Pid, Reason)} | exits(Table)];
                [] -> exits(Table)
            end;
        Trace when element(1, Trace) =:= trace_ts ->
            exits(Table)
    after 0 ->
        []
    end.

ended(Id, _, {shutdown, {failed_to_start_child, _, _}}) -> "unstarted " ++ Id;
ended(Id, _, {shutdown, Detail}) -> "exit " ++ Id ++ " shutdown:" ++ Detail;
ended(Id, Pid, shutdown) ->
    case ets:member(melted, Pid) of
        true -> "exit " ++ Id ++ " meltdown";
        false -> "exit " ++ Id ++ " shutdown"
    end;
ended(Id, _, Reason) -> "exit " ++ Id ++ " " ++ atom_to_list(Reason).

play(["start"], #{table := Table, parent := Parent, root := Root}) ->
    Parent ! {start, {Table, Root}},
    receive
        {started, {ok, _}} -> "= ok\n";
        {started, {error, Reason}} -> ["= failed", path(Reason), "\n"]
    end;
play(["crash", Id], Scene) -> order(Id, {order, crash}, Scene);
play(["stop", Id, "shutdown:" ++ Detail], Scene) -> order(Id, {order, {shutdown, Detail}}, Scene);
play(["stop", Id, Reason], Scene) -> order(Id, {order, list_to_atom(Reason)}, Scene);
play(["kill", Id], Scene) -> order(Id, kill, Scene);
play(["refuse", Id, Times, Kind], #{table := Table}) ->
    ets:insert(Table, {{order, Id}, list_to_integer(Times), Kind}), [];
play(["decline", Id, Times], #{table := Table}) ->
    ets:insert(Table, {{order, Id}, list_to_integer(Times), "decline"}), [];
play(["age", Seconds], Scene) ->
    [age(Sup, list_to_integer(Seconds), Flags) || {Sup, Flags} <- supervisors(Scene)], [];
play(["shutdown"], #{parent := Parent, root := Root} = Scene) ->
    Pid = current(Root, Scene),
    Monitor = monitor(process, Pid),
    Parent ! {shutdown, Pid},
    gone(Monitor);
play(["count", Sup], Scene) ->
    asked(fun() ->
        Counts = supervisor:count_children(current(Sup, Scene)),
        Shown = [Key || Key <- [specs, active, supervisors, workers], Key =/= specs orelse not is_pool(Sup, Scene)],
        ["=", [[" ", integer_to_list(proplists:get_value(Key, Counts))] || Key <- Shown], "\n"]
    end);
play(["terminate", Sup, Id], Scene) ->
    asked(fun() -> answer(supervisor:terminate_child(current(Sup, Scene), Id)) end);
play(["restart", Sup, Id], Scene) ->
    asked(fun() -> answer(supervisor:restart_child(current(Sup, Scene), Id)) end);
play(["delete", Sup, Id], Scene) ->
    asked(fun() -> answer(supervisor:delete_child(current(Sup, Scene), Id)) end);
play(["add" | Line], #{table := Table} = Scene) ->
    {worker, _, Words} = Node = node_of(Line),
    asked(fun() -> answer(supervisor:start_child(current(valued("in=", Words), Scene), child_spec(Table, Node))) end);
play(["spawn", Pool, Number], Scene) ->
    asked(fun() -> answer(supervisor:start_child(current(Pool, Scene), [Number])) end);
play(["drop", Pool, Number], Scene) ->
    Member = current(Pool ++ "/" ++ Number, Scene),
    asked(fun() -> answer(supervisor:terminate_child(current(Pool, Scene), Member)) end).

asked(Ask) ->
    try Ask() catch exit:{Reason, _} when Reason =:= noproc; Reason =:= shutdown -> "= error noproc\n" end.

answer(ok) -> "= ok\n";
answer({ok, undefined}) -> "= ok undefined\n";
answer({ok, _}) -> "= ok\n";
answer({error, Reason}) when is_atom(Reason) -> ["= error ", known(Reason), "\n"];
answer({error, {already_started, _}}) -> "= error already_started\n";
answer({error, {bad_combination, _}}) -> "= error invalid\n";
answer({error, _}) -> "= error failed\n".

known(Reason) ->
    Known = [not_found, running, restarting, already_present],
    case lists:member(Reason, Known) of
        true -> atom_to_list(Reason);
        false -> "failed"
    end.

path({shutdown, {failed_to_start_child, Id, Reason}}) -> [" ", Id, path(Reason)];
path(_) -> [].

order(Id, Order, Scene) ->
    Pid = current(Id, Scene),
    Monitor = monitor(process, Pid),
    case Order of
        kill -> exit(Pid, kill);
        Message -> Pid ! Message
    end,
    gone(Monitor).

gone(Monitor) ->
    receive {'DOWN', Monitor, process, _, _} -> [] end.

current(Id, #{table := Table}) ->
    [{_, Pid}] = ets:lookup(Table, {current, Id}),
    Pid.

is_pool(Sup, #{table := Table}) ->
    [{_, Tree}] = ets:lookup(Table, tree),
    [] =/= [Id || {#{strategy := simple_one_for_one}, Id, _} <- Tree, Id =:= Sup].

supervisors(#{table := Table} = Scene) ->
    [{_, Tree}] = ets:lookup(Table, tree),
    Known = [{current(Id, Scene), Flags} || {Flags, Id, _} <- Tree, is_map(Flags), ets:member(Table, {current, Id})],
    [{Pid, Flags} || {Pid, Flags} <- Known, is_process_alive(Pid)].

age(Sup, Seconds, #{period := Period}) ->
    sys:replace_state(Sup, fun(State) ->
        Period = element(?PERIOD, State),
        setelement(?RESTARTS, State, [At - Seconds || At <- element(?RESTARTS, State)])
    end).

%% ------------------------------------------------------------------------ quiet

%% The tree as text, once it is quiet.
quiet(#{table := Table, root := Root, name := Name} = Scene, Step, Limit) ->
    Alive = lists:sort([Pid || {{pid, Pid}, _} <- ets:tab2list(Table), is_process_alive(Pid)]),
    Pid = current(Root, Scene),
    Seen = case is_process_alive(Pid) of
        true -> catch walk(Root, Pid, Table);
        false -> {"-", []}
    end,
    case Seen of
        {Text, Listed} when is_list(Listed) ->
            case lists:sort(Listed) =:= Alive of
                true -> Text;
                false -> later(Scene, Step, Limit, Name)
            end;
        _ -> later(Scene, Step, Limit, Name)
    end.

later(Scene, Step, Limit, Name) ->
    erlang:monotonic_time(millisecond) < Limit orelse fail("~s: ~p does not come to rest", [Name, Step]),
    timer:sleep(1),
    quiet(Scene, Step, Limit).

walk(Id, Pid, Table) ->
    [{_, Tree}] = ets:lookup(Table, tree),
    Seen = lists:reverse(supervisor:which_children(Pid)),
    case [Strategy || {#{strategy := Strategy}, Sup, _} <- Tree, Sup =:= Id] of
        [simple_one_for_one] ->
            Members = [{name(Member, Table), Member} || {_, Member, _, _} <- Seen],
            {Id ++ "{" ++ lists:join(" ", lists:sort([Name || {Name, _} <- Members])) ++ "}",
                [Pid | [Member || {_, Member} <- Members, is_pid(Member)]]};
        _ ->
            Parts = [child(Child, Table) || Child <- Seen],
            {[Id, "[", lists:join(" ", [Text || {Text, _} <- Parts]), "]"],
                [Pid | lists:append([Listed || {_, Listed} <- Parts])]}
    end.

child({Id, undefined, _, _}, _) -> {Id ++ "-", []};
child({_, restarting, _, _}, _) -> throw(restarting);
child({Id, Pid, worker, _}, _) -> {Id, [Pid]};
child({Id, Pid, supervisor, _}, Table) -> walk(Id, Pid, Table).

name(Pid, Table) when is_pid(Pid) ->
    [{_, Name}] = ets:lookup(Table, {pid, Pid}),
    Name;
name(undefined, _) ->
    "-";
name(restarting, _) ->
    throw(restarting).
